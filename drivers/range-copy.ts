/** The missing parts of one file, each read over a lane of the connection and streamed straight into one part PUT. */

import { IngestError } from '../domain/errors.ts'
import type { FileRecord, UploadState } from '../domain/file-record.ts'
import { type PartPlan, partRange, partsOf } from '../domain/ranges.ts'
import { failpoint } from './failpoint.ts'
import { type Lane, lanesOf } from './lanes.ts'
import type { Attributes, Sftp, SftpFile } from './sftp/sftp.ts'
import type { ObjectStore, StoredPart } from './store/store.ts'

export interface RangeCopyOptions {
  sftp: Sftp
  store: ObjectStore
  /** Of the copy that these ranges are a part of. */
  job: {
    file: FileRecord
    signal: AbortSignal
    keepUpload(upload: UploadState | null): Promise<void>
    onBytes(bytes: number): void
    onKept(bytes: number): void
    isLeaving(): boolean
  }
  /** Of this file. Parts are added as they are stored. */
  upload: UploadState
  /** Throws when the file is no longer the one that was recorded. */
  holdAgainst(seen: Attributes): void
}

export class RangeCopy {
  readonly #options: RangeCopyOptions
  readonly #plan: PartPlan
  readonly #missing: number[]
  /** By the channel that they were opened on. */
  readonly #handles = new Map<number, Promise<SftpFile>>()
  /** Aborted by the first failure, with it as the reason. */
  readonly #stop = new AbortController()
  readonly #signal: AbortSignal
  #unkept: StoredPart[] = []
  #keeping: Promise<void> | null = null

  constructor(options: RangeCopyOptions) {
    const { job, upload } = options
    this.#options = options
    this.#plan = partsOf(upload.size, upload.partBytes)
    this.#signal = AbortSignal.any([job.signal, this.#stop.signal])
    const done = new Set(upload.parts.map((part) => part.number))
    this.#missing = Array.from({ length: this.#plan.count }, (_, index) => index + 1).filter(
      (number) => !done.has(number)
    )
    for (const part of upload.parts) job.onKept(part.sizeBytes)
  }

  /**
   * Resolves when every part is stored and recorded, and every handle still shows the same file. Rejects with CANCELLED
   * when the worker leaves before the last part; what is finished is recorded.
   */
  async run(): Promise<void> {
    try {
      const most = Math.min(2 * lanesOf(this.#options.sftp).most, this.#missing.length)
      await Promise.all(Array.from({ length: most }, () => this.#parts().catch((error) => this.#fail(error))))
      await this.#keeping
      if (!this.#stop.signal.aborted) await this.#lookAgain().catch((error) => this.#fail(error))
    } finally {
      const closed = this.#close()
      // Whoever gave the copy up does not wait for a server that may have fallen silent.
      if (!this.#signal.aborted) await closed
    }
    // The first failure is the cause; the others follow from it.
    if (this.#stop.signal.aborted) throw this.#stop.signal.reason
    if (this.#missing.length > 0) throw new IngestError('CANCELLED', 'handed back at the end of a part')
  }

  #fail(error: unknown): void {
    this.#stop.abort(error)
  }

  async #parts(): Promise<void> {
    const { job, sftp } = this.#options
    while (this.#missing.length > 0 && !job.isLeaving()) {
      const lane = await lanesOf(sftp).take(this.#signal)
      try {
        // Others may have taken the last ones while this one waited, or the worker may be leaving.
        const number = job.isLeaving() ? undefined : this.#missing.shift()
        if (number === undefined) return
        this.#keep(await this.#part(number, lane))
        await failpoint('between-parts')
      } finally {
        lane.done()
      }
    }
  }

  async #part(number: number, lane: Lane): Promise<StoredPart> {
    const { sftp, store, job, upload } = this.#options
    const { start, length } = partRange(this.#plan, job.file.size, number)
    const handle = await this.#handleOn(lane.channel)
    const signal = this.#signal
    const blocks = handle.blocks(start, length, { signal, onBytes: job.onBytes, onAsked: () => lane.asked(length) })
    const part = { number, sizeBytes: length, blocks, blockBytes: sftp.readBytes, signal }
    return store.uploadPart(job.file.reservedKey!, upload.uploadId!, part)
  }

  #handleOn(channel: number): Promise<SftpFile> {
    const known = this.#handles.get(channel)
    if (known) return known
    const opening = this.#open(channel)
    this.#handles.set(channel, opening)
    return opening
  }

  async #open(channel: number): Promise<SftpFile> {
    const { sftp, job, holdAgainst } = this.#options
    const handle = await sftp.open(job.file.path, { channel, signal: this.#signal })
    try {
      holdAgainst(await handle.stat({ signal: this.#signal }))
      return handle
    } catch (error) {
      void handle.close().catch(() => undefined)
      throw error
    }
  }

  /** Each handle before it is closed: one that was opened after the file was renamed over would show another file. */
  async #lookAgain(): Promise<void> {
    const handles = await Promise.all(this.#handles.values())
    const looks = handles.map((handle) => handle.stat({ signal: this.#signal }))
    for (const seen of await Promise.all(looks)) this.#options.holdAgainst(seen)
  }

  async #close(): Promise<void> {
    const closing = [...this.#handles.values()].map((opening) => opening.then((handle) => handle.close()))
    await Promise.allSettled(closing)
  }

  /**
   * One write to the record at a time; parts that finish meanwhile travel with the next one. What a crash leaves
   * unwritten is found again by the store's own list of parts.
   */
  #keep(part: StoredPart): void {
    this.#options.upload.parts.push(part)
    this.#unkept.push(part)
    this.#keeping ??= this.#keepAll()
  }

  async #keepAll(): Promise<void> {
    const { job, upload } = this.#options
    try {
      while (this.#unkept.length > 0) await job.keepUpload({ ...upload, parts: this.#unkept.splice(0) })
    } catch (error) {
      this.#fail(error)
    } finally {
      this.#keeping = null
    }
  }
}
