/**
 * A worker's stay at one server: one connection slot, one connection, and the server's pending files copied through it
 * until there are none, the slot is wanted by somebody else, or the worker stops.
 *
 *   claim -> wait for a place and memory -> copy -> finish
 *
 *
 *   claiming --rest--> resting --goOn--> claiming        resting ends with what is in flight
 *   claiming | resting --leave--> leaving                for good; a large file has a moment to end
 *   any --handBack--> handing back                       for good; nothing is begun any more
 *
 * Up to `concurrency` files are copied side by side, and what all stays hold in memory is bounded, so that a few large
 * ones or many small ones are under way. Sizes are known only after a claim: the next one asks for as many as would fit
 * if they were like the last, and some more, so that no place is empty while it is under way. Stored files are finished
 * in batches, and their places are free meanwhile.
 *
 * A file whose lease could not be renewed in time is given up before the lease ends: its signal is aborted and nothing
 * more is written for it.
 */
import { IngestError } from '../domain/errors.ts'
import type { Outcome } from '../domain/file.ts'
import type { FileRecord, UploadState } from '../domain/file-record.ts'
import { outcomeOf } from '../domain/outcome.ts'
import { SMALL_FILE_BYTES } from '../domain/ranges.ts'
import { copyFile, heldBytesOf } from '../drivers/copy.ts'
import { failpoint } from '../drivers/failpoint.ts'
import type { Sftp } from '../drivers/sftp/sftp.ts'
import type { ObjectStore } from '../drivers/store/store.ts'
import { type Finished, Finisher } from './finisher.ts'
import type { MemoryShare } from './memory-budget.ts'
import { ProgressMeter } from './progress.ts'

export interface DrainPorts {
  claim(limit: number): Promise<FileRecord[]>
  /** Rejects with LEASE_LOST when the file is no longer ours. */
  keepUpload(file: FileRecord, upload: UploadState | null): Promise<void>
  finish(file: FileRecord, outcome: Outcome): Promise<void>
  /** The same for many files that were stored; those that are not held any more are left alone. */
  finishEach(finished: Finished[]): Promise<void>
  now(): number
}

export interface DrainOptions {
  checksum: 'crc32' | 'sha256'
  /** Files side by side over the one connection, as far as their memory reaches. */
  concurrency: number
  memory: MemoryShare
  /** Aborted to give everything up at once. */
  signal: AbortSignal
}

/** Give a file up when it was not renewed for this long; a lease is 30 s. */
export const SELF_STOP_MS = 20_000

/**
 * What is nearly done is done within this time after `leave`; what is not goes to another worker, part by part. A worker
 * that stops has no time for this: a part that it begins late may not end.
 */
const HAND_BACK_AFTER_MS = 4_000

/**
 * How many files travel side by side over one connection: each small one waits for two round trips to the server and one
 * to the store, wherever these are. With 16 a near store's answers were waited for.
 */
export const FILES_AT_ONCE = 64

/** What is claimed and has to wait is kept from other workers, so it must not be much. */
const CLAIM_AT_ONCE = 64

/** One file on its way. */
export interface Copying {
  file: FileRecord
  progress: ProgressMeter
  renewedAt: number
  abort: AbortController
  /** It has its place and memory, and may have been read from. */
  hasBegun: boolean
}

export class Drain {
  readonly copying = new Map<string, Copying>()
  readonly #sftp: Sftp
  readonly #store: ObjectStore
  readonly #ports: DrainPorts
  readonly #options: DrainOptions
  #leaving = false
  #leavingSince: number | null = null
  #isHandingBack = false
  #resting = false
  #hasClaimed = false
  #isWoken = false
  #wake: () => void = () => {}
  #failure: unknown = null
  readonly #finisher: Finisher
  #places: number
  /** Claimed, and not copied yet: in the order of their claims those that wait for a place, and how many wait in all. */
  readonly #forPlace: (() => void)[] = []
  #waiting = 0
  #usualBytes = SMALL_FILE_BYTES

  constructor(sftp: Sftp, store: ObjectStore, ports: DrainPorts, options: DrainOptions) {
    this.#sftp = sftp
    this.#store = store
    this.#ports = ports
    this.#options = options
    this.#finisher = new Finisher((finished) => ports.finishEach(finished))
    this.#places = options.concurrency
  }

  /** Claims nothing more; what is in flight goes on, large files up to the end of a part. */
  leave(): void {
    this.#leaving = true
    this.#leavingSince ??= this.#ports.now()
  }

  /**
   * The worker stops: claims and begins nothing more, neither a file nor a part of a large one. What is on its way travels
   * to its end; what has not begun goes back at once.
   */
  handBack(): void {
    this.leave()
    this.#isHandingBack = true
    for (const { hasBegun, abort } of this.copying.values()) if (!hasBegun) abort.abort(notBegun())
  }

  /** The same until `goOn`. A stay that has claimed nothing yet claims once, so that no connection is made for nothing. */
  rest(): void {
    this.#resting = true
  }

  /** There may be more to claim; also after a rest. */
  goOn(): void {
    this.#resting = false
    this.#isWoken = true
    this.#wake()
  }

  /** The files whose lease was lost: nothing more is written for them. */
  giveUp(id: string, reason: string): void {
    this.copying.get(id)?.abort.abort(new IngestError('LEASE_LOST', reason))
  }

  /**
   * Copies until nothing is left. Resolves to the number of files; rejects with the failure of the connection when it
   * was lost (the files in flight have been handed back).
   */
  async run(): Promise<number> {
    // One listener for all files: a signal of three for each would be the dearest part of a small one.
    const ends = [this.#options.signal, this.#sftp.closed]
    const abortAll = ({ target }: Event) => this.#abortAll((target as AbortSignal).reason)
    for (const end of ends) end.addEventListener('abort', abortAll)
    try {
      return await this.#drain()
    } finally {
      for (const end of ends) end.removeEventListener('abort', abortAll)
    }
  }

  #abortAll(reason: unknown): void {
    for (const { abort } of this.copying.values()) abort.abort(reason)
  }

  async #drain(): Promise<number> {
    let done = 0
    for (;;) {
      this.#isWoken = false
      const limit = this.#room()
      const claimed = limit > 0 ? await this.#claim(limit) : []
      for (const file of claimed) void this.#copy(file)
      done += claimed.length
      if (this.copying.size === 0) break
      if (limit > 0 && claimed.length === limit) continue
      // What comes meanwhile is claimed when a file ends; small ones end often, so not at each of them.
      const enough = limit > 0 || !this.#isOpen ? this.copying.size - 1 : Math.floor(this.copying.size * 0.75)
      while (this.copying.size > enough && !this.#isWoken) await this.#untilWoken()
    }
    if (this.#failure !== null) throw this.#failure
    if (this.#sftp.closed.aborted) throw this.#sftp.closed.reason
    return done
  }

  get #mayBeginNoPart(): boolean {
    if (this.#isHandingBack) return true
    return this.#leavingSince !== null && this.#ports.now() - this.#leavingSince > HAND_BACK_AFTER_MS
  }

  get #isOpen(): boolean {
    if (this.#leaving || (this.#resting && this.#hasClaimed)) return false
    return !this.#options.signal.aborted && !this.#sftp.closed.aborted && this.#failure === null
  }

  /** How many more may be claimed: what would fit now, and as many small ones to wait for their turn. */
  #room(): number {
    if (!this.#isOpen) return 0
    const { memory, concurrency } = this.#options
    if (this.#waiting > 0) return this.#areSmall ? concurrency - this.#waiting : 0
    const fitting = Math.floor(memory.roomBytes() / this.#usualBytes)
    const places = this.#areSmall ? this.#places + concurrency : this.#places
    return Math.min(places, CLAIM_AT_ONCE, memory.isEmpty() ? Math.max(1, fitting) : fitting)
  }

  /** Whether files like the last ones are so small that all places are taken before the memory is. */
  get #areSmall(): boolean {
    return this.#usualBytes * this.#options.concurrency * 4 <= this.#options.memory.totalBytes
  }

  #untilWoken(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  /** Resolves when the file may be copied; answers what gives its place and memory back. */
  async #turnOf(file: FileRecord, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted()
    const lane = file.size <= SMALL_FILE_BYTES ? 'short' : 'long'
    const heldBytes = heldBytesOf(file.size, this.#sftp)
    let giveBytes = () => {}
    this.#waiting++
    try {
      await this.#place(signal)
      giveBytes = await this.#options.memory.take(heldBytes, lane, signal).catch((error: unknown) => {
        this.#givePlace()
        throw error
      })
    } finally {
      this.#waiting--
    }
    let isGiven = false
    return () => {
      if (isGiven) return
      isGiven = true
      giveBytes()
      this.#givePlace()
    }
  }

  /** Rejects with the signal's reason. */
  async #place(signal: AbortSignal): Promise<void> {
    if (this.#places-- > 0) return
    await new Promise<void>((resolve, reject) => {
      const begin = () => {
        signal.removeEventListener('abort', abort)
        resolve()
      }
      const abort = () => {
        this.#forPlace.splice(this.#forPlace.indexOf(begin), 1)
        this.#places++
        reject(signal.reason)
      }
      signal.addEventListener('abort', abort, { once: true })
      this.#forPlace.push(begin)
    })
  }

  #givePlace(): void {
    this.#places++
    this.#forPlace.shift()?.()
  }

  /** Where nothing can be claimed, because `files` is away, what is in flight still travels to its end. */
  async #claim(limit: number): Promise<FileRecord[]> {
    this.#hasClaimed = true
    try {
      const claimed = await this.#ports.claim(limit)
      const bytes = claimed.reduce((sum, file) => sum + heldBytesOf(file.size, this.#sftp), 0)
      if (claimed.length > 0) this.#usualBytes = Math.max(1, bytes / claimed.length)
      return claimed
    } catch {
      this.#leaving = true
      return []
    }
  }

  async #copy(file: FileRecord): Promise<void> {
    const abort = new AbortController()
    const now = this.#ports.now()
    const progress = new ProgressMeter(file.size, now)
    const copying: Copying = { file, progress, renewedAt: now, abort, hasBegun: false }
    this.copying.set(file._id, copying)
    // The connection may have ended while the claim was under way, or the worker been stopped.
    if (this.#isHandingBack) abort.abort(notBegun())
    else if (this.#options.signal.aborted) abort.abort(this.#options.signal.reason)
    else if (this.#sftp.closed.aborted) abort.abort(this.#sftp.closed.reason)
    let hasProgressed = false
    let release = () => {}
    try {
      release = await this.#turnOf(file, abort.signal)
      copying.hasBegun = true
      await failpoint('after-claim')
      const outcome = await copyFile(this.#sftp, this.#store, {
        file,
        checksum: this.#options.checksum,
        isLeaving: () => this.#mayBeginNoPart,
        signal: abort.signal,
        onBytes: (bytes) => progress.add(bytes),
        onKept: (bytes) => progress.addKept(bytes),
        keepUpload: async (upload) => {
          // The lease is as old as the question: the answer may lie here while this process stands still.
          const askedAt = this.#ports.now()
          await this.#ports.keepUpload(file, upload)
          // One without an id begins anew, and what was finished before is of no use.
          hasProgressed = upload?.uploadId ? hasProgressed || upload.parts.length > 0 : false
          copying.renewedAt = Math.max(copying.renewedAt, askedAt)
        },
        stillOurs: async () => {
          abort.signal.throwIfAborted()
          const age = this.#ports.now() - copying.renewedAt
          if (age > SELF_STOP_MS) throw new IngestError('LEASE_LOST', `not renewed for ${age} ms`)
        }
      })
      await failpoint('after-complete')
      release()
      if (outcome.kind === 'stored') await this.#finisher.finish(file, outcome)
      else await this.#ports.finish(file, outcome)
    } catch (error) {
      await this.#failed(file, this.#causeOf(error, abort.signal), hasProgressed || !copying.hasBegun)
    } finally {
      release()
      this.copying.delete(file._id)
      this.#wake()
    }
  }

  /** A copy that was broken off fails in many ways; the reason that it was broken off for is the one to tell. */
  #causeOf(error: unknown, aborted: AbortSignal): unknown {
    if (aborted.aborted) return aborted.reason
    if (this.#options.signal.aborted) return this.#options.signal.reason
    if (this.#sftp.closed.aborted && this.#sftp.closed.reason) return this.#sftp.closed.reason
    return error
  }

  async #failed(file: FileRecord, error: unknown, isExcused: boolean): Promise<void> {
    const outcome = outcomeOf(error, this.#ports.now(), isExcused)
    if (!outcome) return
    if (outcome.kind === 'deferred' && (error as IngestError).type?.startsWith('STORE_')) this.#failure ??= error
    // Where this cannot be said the lease runs out, and the file is rescued.
    await this.#ports.finish(file, outcome).catch(() => undefined)
  }
}

function notBegun(): IngestError {
  return new IngestError('CANCELLED', 'handed back before it was begun')
}
