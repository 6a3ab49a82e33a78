/**
 * One file from an SFTP server to the object store, proven.
 *
 * Small: one pipelined read into one bounded buffer, one conditional PUT with its CRC32.
 * Large: ranges side by side, each on an SFTP channel of its own, streamed straight into one part PUT whose CRC32 is
 * computed as it passes; finished parts are kept, so that any worker goes on from there.
 *
 * The source is looked at through every handle after OPEN and before CLOSE, and by its path at the end: a file that
 * changed, or was renamed over, is never stored. The store is fenced too: writes are conditional and the object says
 * which file, version, size, mtime and epoch it is, so that a worker that came back late can be told from the owner.
 */
import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { messageIdOf } from '../domain/announcement.ts'
import { crc32Hex, crc32Of } from '../domain/crc32.ts'
import { IngestError } from '../domain/errors.ts'
import type { Outcome } from '../domain/file.ts'
import type { FileRecord, ObjectInfo, UploadState } from '../domain/file-record.ts'
import { alternativeKey } from '../domain/object-key.ts'
import { planParts, SMALL_FILE_BYTES } from '../domain/ranges.ts'
import { isRefetching } from '../domain/refetch.ts'
import { FileUpload } from './file-upload.ts'
import { lanesOf } from './lanes.ts'
import { RangeCopy } from './range-copy.ts'
import type { Attributes, Sftp } from './sftp/sftp.ts'
import type { Condition, ObjectStore, StoredObject } from './store/store.ts'

export interface CopyJob {
  /** Claimed: it has its epoch and its reserved key. */
  file: FileRecord
  checksum: 'crc32' | 'sha256'
  signal: AbortSignal
  /** Keeps the upload's state in the record; rejects with LEASE_LOST when the file is no longer ours. */
  keepUpload(upload: UploadState | null): Promise<void>
  /** Rejects with LEASE_LOST when the file is no longer ours; asked right before something is written for good. */
  stillOurs(): Promise<void>
  onBytes(bytes: number): void
  /** Whether to stop before the next part of a large file: what is finished is kept, and another worker goes on. */
  isLeaving(): boolean
  /** Bytes that an earlier attempt has stored already. */
  onKept(bytes: number): void
}

/** Large files share the lanes of their connection, so few of them are enough to keep these busy while one ends. */
const LARGE_BYTES = 12 * 1024 * 1024
/** Of one range: what is on its way from the server and what waits for the store's socket. */
const RANGE_BYTES = 2.5 * 1024 * 1024

/** What copying a file of this size adds to the memory in use, about; a large one: its share of what the lanes hold. */
export function heldBytesOf(sizeBytes: number, sftp: Sftp): number {
  if (sizeBytes <= SMALL_FILE_BYTES) return sizeBytes
  return Math.max(LARGE_BYTES, (lanesOf(sftp).most * RANGE_BYTES) / 2)
}

/** Resolves to how it ended; throws what `outcomeOf` then turns into an outcome. */
export async function copyFile(sftp: Sftp, store: ObjectStore, job: CopyJob): Promise<Outcome> {
  if (job.file.size > store.limits.maxObjectBytes) {
    throw new IngestError('FILE_TOO_LARGE', `${job.file.size} bytes; the store takes ${store.limits.maxObjectBytes}`)
  }
  const copy = new Copy(sftp, store, job)
  return copy.run()
}

class SourceChanged extends Error {
  readonly seen: Pick<Attributes, 'sizeBytes' | 'mtimeSeconds'>
  constructor(seen: Pick<Attributes, 'sizeBytes' | 'mtimeSeconds'>) {
    super('the source changed')
    this.seen = seen
  }
}

class Copy {
  readonly #sftp: Sftp
  readonly #store: ObjectStore
  readonly #job: CopyJob
  readonly #file: FileRecord
  readonly #key: string
  readonly #metadata: Record<string, string>
  readonly #upload: FileUpload

  constructor(sftp: Sftp, store: ObjectStore, job: CopyJob) {
    this.#sftp = sftp
    this.#store = store
    this.#upload = new FileUpload(store, job)
    this.#job = job
    this.#file = job.file
    this.#key = job.file.reservedKey!
    this.#metadata = {
      'longshore-file': job.file._id,
      'longshore-version': String(job.file.version),
      'longshore-size': String(job.file.size),
      'longshore-mtime': String(job.file.mtime),
      'longshore-epoch': String(job.file.epoch)
    }
  }

  async run(): Promise<Outcome> {
    try {
      const isSmall = this.#file.size <= SMALL_FILE_BYTES
      const stored = (await this.#adopt()) ?? (await (isSmall ? this.#small() : this.#large()))
      await this.#upload.abandon()
      return stored
    } catch (error) {
      if (error instanceof KeyTaken) return this.#taken()
      if (error instanceof SourceChanged) return this.#changed(error.seen)
      if ((error as IngestError).type === 'SOURCE_CHANGED') return this.#changed(await this.#sftp.stat(this.#file.path))
      if ((error as IngestError).type === 'SFTP_FAILURE' && (await this.#isAnother())) {
        return this.#changed(await this.#sftp.stat(this.#file.path))
      }
      if ((error as IngestError).type === 'SFTP_NO_SUCH_PATH') await this.#leaveNothing()
      throw error
    }
  }

  async #changed(seen: Pick<Attributes, 'sizeBytes' | 'mtimeSeconds'>): Promise<Outcome> {
    const abandoned = this.#upload.abandon()
    // Nobody comes back once a refetch has ended: with the store away it waits for it. What else stays behind is known
    // to the record, and found by whoever copies the file next.
    await (isRefetching(this.#file) ? abandoned : abandoned.catch(unlessLost))
    return { kind: 'changed', size: seen.sizeBytes, mtime: seen.mtimeSeconds * 1000 }
  }

  async #taken(): Promise<Outcome> {
    await this.#upload.abandon()
    return { kind: 'keyTaken', key: alternativeKey(this.#key, this.#file._id) }
  }

  /** A worker before us may have stored it and died before it could say so: then nothing is copied twice. */
  async #adopt(): Promise<Outcome | null> {
    if (this.#file.epoch === 1) return null
    const there = await this.#store.head(this.#key, this.#job.signal)
    if (!there || !this.#isOurs(there) || there.crc32 === null) return null
    return this.#stored(there, there.crc32)
  }

  #isOurs(object: StoredObject): boolean {
    const names = ['longshore-file', 'longshore-version', 'longshore-size', 'longshore-mtime'] as const
    const same = names.every((name) => object.metadata[name] === this.#metadata[name])
    // What was stored before a refetch was asked for is what it replaces.
    if (Number(object.metadata['longshore-epoch']) <= (this.#file.refetch?.epoch ?? 0)) return false
    return same && object.sizeBytes === this.#file.size
  }

  /**
   * What may be written over: nothing, unless an older version of this very record is there (the file changed before
   * it was announced). Something foreign has the key: another one is taken.
   */
  async #condition(there: StoredObject | null): Promise<Condition> {
    if (!there) return { ifNoneMatch: '*' }
    // A refetch gives the recorded key its bytes back, whoever wrote over them.
    const isForeign = there.metadata['longshore-file'] !== this.#file._id
    if (isForeign && !isRefetching(this.#file)) throw new KeyTaken()
    if (Number(there.metadata['longshore-epoch']) > this.#file.epoch) {
      throw new IngestError('LEASE_LOST', 'a newer worker has stored this file')
    }
    return { ifMatch: there.etag }
  }

  #write(write: (condition: Condition) => Promise<StoredObject>): Promise<StoredObject> {
    return this.#conditionally(write, (there) => (this.#isOurs(there) && there.crc32 !== null ? there : null))
  }

  /** Where nothing is there; after a 412 looks at what is, and adopts it or replaces what is ours and older. */
  async #conditionally<T>(
    write: (condition: Condition) => Promise<T>,
    adopted: (there: StoredObject) => T | null
  ): Promise<T> {
    try {
      return await write({ ifNoneMatch: '*' })
    } catch (error) {
      if ((error as IngestError).type !== 'STORE_PRECONDITION') throw error
    }
    const there = await this.#store.head(this.#key, this.#job.signal)
    const known = there && adopted(there)
    if (known) return known
    await this.#job.stillOurs()
    return write(await this.#condition(there))
  }

  /** Size, mtime and kind as they were recorded, or the file has changed. */
  #holdAgainst(seen: Attributes): void {
    if (seen.kind !== 'file') throw new IngestError('SFTP_FAILURE', `${this.#file.path} is no longer a regular file`)
    if (seen.sizeBytes !== this.#file.size || seen.mtimeSeconds * 1000 !== this.#file.mtime)
      throw new SourceChanged(seen)
  }

  /** One event id stands for one content: a refetch stores what was stored before, or nothing. */
  #holdAgainstRecord(crc32: string): void {
    const { object, size, mtime } = this.#file
    if (!isRefetching(this.#file) || !object) return
    const known = object.checksum.algorithm === 'crc32' ? object.checksum.value : (object.crc32 ?? crc32)
    if (known === crc32) return
    throw new SourceChanged({ sizeBytes: size, mtimeSeconds: mtime / 1000 })
  }

  /** Some servers answer a READ past the end of a file that was cut with a failure of their own, not with the end. */
  async #isAnother(): Promise<boolean> {
    try {
      this.#holdAgainst(await this.#sftp.stat(this.#file.path))
      return false
    } catch (error) {
      return error instanceof SourceChanged
    }
  }

  async #small(): Promise<Outcome> {
    const { signal } = this.#job
    const handle = await this.#sftp.open(this.#file.path, { signal })
    let body: Buffer
    try {
      // Sent together: a server answers the requests of one channel in their order, so this costs one round trip.
      const [before, bytes, after, byPath] = await Promise.all([
        handle.stat(),
        handle.readSmall(this.#file.size, { signal }),
        handle.stat(),
        this.#sftp.stat(this.#file.path)
      ])
      for (const seen of [before, after, byPath]) this.#holdAgainst(seen)
      Object.assign(this.#metadata, ownerOf(before))
      body = bytes
    } finally {
      void handle.close().catch(() => undefined)
    }
    const sum = crc32Hex(crc32(body))
    const sha256 = this.#job.checksum === 'sha256' ? createHash('sha256').update(body).digest('hex') : null
    this.#job.onBytes(body.length)
    this.#holdAgainstRecord(sum)
    await this.#job.stillOurs()
    const options = { metadata: this.#metadata, crc32: sum, signal }
    const object = await this.#write((condition) => this.#store.put(this.#key, body, { ...options, condition }))
    return this.#stored(object, sum, sha256)
  }

  async #large(): Promise<Outcome> {
    const plan = planParts(this.#file.size, this.#store.limits, await lanesOf(this.#sftp).areFast())
    if (!plan) throw new IngestError('FILE_TOO_LARGE', `${this.#file.size} bytes do not fit the store's parts`)
    const { signal } = this.#job
    const seen = await this.#sftp.stat(this.#file.path, { signal })
    this.#holdAgainst(seen)
    Object.assign(this.#metadata, ownerOf(seen))
    // Where another worker has stored the file meanwhile, none is begun: nobody would come back for it.
    const begin = (condition: Condition) => this.#store.createUpload(this.#key, this.#metadata, condition)
    const upload = await this.#upload.open(plan.partBytes, () => this.#conditionally(begin, () => null))
    const holdAgainst = (seen: Attributes) => this.#holdAgainst(seen)
    await new RangeCopy({ sftp: this.#sftp, store: this.#store, job: this.#job, upload, holdAgainst }).run()
    this.#holdAgainst(await this.#sftp.stat(this.#file.path, { signal }))
    const parts = upload.parts.toSorted((a, b) => a.number - b.number)
    const sum = crc32Of(parts)
    this.#holdAgainstRecord(sum)
    await this.#job.stillOurs()
    const options = { parts, sizeBytes: this.#file.size, crc32: sum, signal }
    const complete = (condition: Condition) =>
      this.#store.completeUpload(this.#key, upload.uploadId!, { ...options, condition })
    const object = await this.#write(complete).catch(async (error: IngestError) => {
      // A store that was killed in the middle of a completion may refuse every later one of the same upload.
      if (error.type === 'CHECKSUM_MISMATCH') await this.#upload.discard(upload).catch(unlessLost)
      throw error
    })
    return this.#stored(object, sum)
  }

  /**
   * The source is gone: whatever earlier attempts left of it goes too. Their object is of a content that changed before
   * anybody was told of it, or it would have been adopted.
   */
  async #leaveNothing(): Promise<void> {
    // With the store away the file waits for it: nobody would come back to a file that is called vanished.
    await this.#upload.abandon()
    if (this.#file.epoch === 1 || isRefetching(this.#file)) return
    const there = await this.#store.head(this.#key, this.#job.signal)
    const { 'longshore-file': id, 'longshore-epoch': epoch } = there?.metadata ?? {}
    if (id !== this.#file._id || Number(epoch) > this.#file.epoch) return
    await this.#job.stillOurs()
    await this.#store.remove(this.#key)
  }

  /**
   * Reads the stored object back, which proves it better than the word of any store, and answers its SHA-256 where that is
   * wanted: unlike CRC32 it cannot be combined from ranges. One that is not what was sent is removed.
   */
  async #readBack(sum: string): Promise<string | null> {
    const hash = this.#job.checksum === 'sha256' ? createHash('sha256') : null
    let read = 0
    for await (const chunk of await this.#store.read(this.#key, { signal: this.#job.signal })) {
      read = crc32(chunk as Buffer, read)
      hash?.update(chunk as Buffer)
    }
    if (crc32Hex(read) === sum) return hash?.digest('hex') ?? null
    await this.#job.stillOurs()
    await this.#store.remove(this.#key)
    throw new IngestError('CHECKSUM_MISMATCH', `what the store gives back has CRC32 ${crc32Hex(read)}; ${sum} was sent`)
  }

  /** `sha256`: where it is known already. */
  async #stored(object: StoredObject, sum: string, sha256: string | null = null): Promise<Outcome> {
    if (object.sizeBytes !== this.#file.size || (object.crc32 !== null && object.crc32 !== sum)) {
      const seen = `${object.sizeBytes} bytes, CRC32 ${object.crc32}`
      throw new IngestError('CHECKSUM_MISMATCH', `the store has ${seen}; sent were ${this.#file.size} bytes, ${sum}`)
    }
    const isSha256 = this.#job.checksum === 'sha256'
    const isProven = object.crc32 !== null && (!isSha256 || sha256 !== null)
    const digest = isProven ? sha256 : await this.#readBack(sum)
    const checksum: ObjectInfo['checksum'] = isSha256
      ? { algorithm: 'sha256', value: digest! }
      : { algorithm: 'crc32', value: sum }
    const { bucket } = this.#store
    const place = { bucket, key: this.#key, url: this.#store.url(this.#key) }
    const info = { ...place, etag: object.etag, size: object.sizeBytes, checksum, crc32: sum }
    return { kind: 'stored', object: info, messageId: messageIdOf(this.#file._id) }
  }
}

/** Whose the source was and who might use it, for those who put it back somewhere; nothing where the server does not say. */
function ownerOf({ mode, uid, gid }: Attributes): Record<string, string> {
  if (mode === 0) return {}
  const octal = (mode & 0o7777).toString(8).padStart(4, '0')
  return { 'longshore-uid': String(uid), 'longshore-gid': String(gid), 'longshore-mode': octal }
}

/** The store may be away; a lease that was lost ends the copy. */
function unlessLost(error: IngestError): void {
  if (error.type === 'LEASE_LOST') throw error
}

/** Thrown inside a copy only. */
class KeyTaken extends Error {}
