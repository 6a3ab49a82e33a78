/**
 * The multipart uploads under one file's key: one is gone on with or begun anew, and in the end none is left.
 *
 * The store may have some that no record names: the answer to a beginning was lost, a worker was overtaken while its
 * request travelled, or the store itself was killed in the middle of a completion (MinIO then still lists the upload of
 * an object that is there). So all that is found under the key is aborted, by the worker that holds the file, before it
 * begins one and when it is done.
 */
import { errorType } from '../domain/errors.ts'
import type { FileRecord, UploadState } from '../domain/file-record.ts'
import { partRange, partsOf, SMALL_FILE_BYTES } from '../domain/ranges.ts'
import type { ObjectStore } from './store/store.ts'

/** Of the copy that the upload is a part of. */
interface Job {
  file: FileRecord
  signal: AbortSignal
  keepUpload(upload: UploadState | null): Promise<void>
  stillOurs(): Promise<void>
}

export class FileUpload {
  readonly #store: ObjectStore
  readonly #job: Job
  readonly #key: string
  /** Whether there may be one under the key; it costs a request to ask. */
  #mayBeThere: boolean

  constructor(store: ObjectStore, job: Job) {
    const { upload, epoch, size, reservedKey } = job.file
    this.#store = store
    this.#job = job
    this.#key = reservedKey!
    this.#mayBeThere = upload !== null || (epoch > 1 && size > SMALL_FILE_BYTES)
  }

  /**
   * Goes on with the upload of a worker before us, in parts of its size, when the source is still the same; else begins
   * one, in parts of `partBytes`.
   */
  async open(partBytes: number, begin: () => Promise<string>): Promise<UploadState> {
    const { file, signal } = this.#job
    const { upload: kept, size, mtime } = file
    if (kept?.uploadId && kept.size === size && kept.mtime === mtime) {
      const plan = partsOf(size, kept.partBytes)
      try {
        const there = await this.#store.listParts(this.#key, kept.uploadId, signal)
        const whole = there.filter((part) => part.crc32 && part.sizeBytes === partRange(plan, size, part.number).length)
        return { ...kept, parts: whole }
      } catch (error) {
        if (errorType(error) !== 'STORE_NO_SUCH_UPLOAD') throw error
      }
    }
    const upload: UploadState = { uploadId: null, partBytes, size, mtime, parts: [] }
    // The intent comes first; whatever a crash left behind under this key is aborted.
    await this.#job.keepUpload(upload)
    await this.abandon()
    this.#mayBeThere = true
    await this.#job.stillOurs()
    upload.uploadId = await begin()
    try {
      await this.#job.keepUpload(upload)
    } catch (error) {
      // Nobody else knows of this one, and where the file was overtaken or taken back meanwhile, nobody looks for it.
      await this.#store.abortUpload(this.#key, upload.uploadId).catch(() => undefined)
      throw error
    }
    return upload
  }

  /** Its parts do not make the object: nobody goes on from them. */
  async discard(upload: UploadState): Promise<void> {
    await this.#job.keepUpload({ ...upload, uploadId: null, parts: [] })
    await this.abandon()
  }

  /** Aborts all of this key, of this worker or of one before it. A worker that was fenced out aborts nothing. */
  async abandon(): Promise<void> {
    if (!this.#mayBeThere) return
    await this.#job.stillOurs()
    for (const { uploadId } of await this.#store.listUploads(this.#key)) {
      await this.#store.abortUpload(this.#key, uploadId)
    }
  }
}
