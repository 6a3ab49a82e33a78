import { randomUUID } from 'node:crypto'
import { link, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32Of } from '../../domain/crc32.ts'
import { IngestError } from '../../domain/errors.ts'
import { BlockReader, cancelled } from './blocks.ts'
import {
  append,
  hasCode,
  type KeyedLock,
  makeFolder,
  newFile,
  orNull,
  SourceFailure,
  syncFolder,
  writeNew,
  writeWhole
} from './filesystem-files.ts'
import type { CompleteOptions, Condition, PartOptions, StoredObject, StoredPart } from './store.ts'

interface Upload {
  key: string
  metadata: Record<string, string>
  /** ms since the epoch. */
  initiatedAt: number
}

interface Surroundings {
  folder: string
  newTemporary(): string
  lock: KeyedLock
  head(key: string): Promise<StoredObject | null>
  require(key: string, condition: Condition): Promise<void>
  commit(path: string, object: Omit<StoredObject, 'etag'>, condition: Condition): Promise<StoredObject>
}

const copyBytes = 1024 * 1024

/**
 * Uploads under way, each a folder: `upload.json`, and a file a part whose name tells number, size and checksum
 * (`00001-5242880-cbf43926.part`), which it gets once it is whole and synced.
 */
export class FilesystemUploads {
  readonly #around: Surroundings

  constructor(around: Surroundings) {
    this.#around = around
  }

  create(key: string, metadata: Record<string, string>, condition: Condition): Promise<string> {
    return this.#around.lock(key, async () => {
      await this.#around.require(key, condition)
      const uploadId = randomUUID()
      const upload: Upload = { key, metadata, initiatedAt: Date.now() }
      const path = this.#around.newTemporary()
      await makeFolder(path)
      await writeNew(join(path, 'upload.json'), JSON.stringify(upload))
      await rename(path, this.#folder(uploadId))
      await syncFolder(this.#around.folder)
      return uploadId
    })
  }

  async writePart(key: string, uploadId: string, options: PartOptions): Promise<StoredPart> {
    const { number, sizeBytes, signal } = options
    const reader = new BlockReader(options)
    const stop = () => reader.stop()
    const path = this.#around.newTemporary()
    signal?.addEventListener('abort', stop, { once: true })
    try {
      if (signal?.aborted) throw cancelled(signal)
      await this.#require(key, uploadId)
      await newFile(path, async (file) => {
        for (;;) {
          const block = await reader.next().catch((cause) => {
            throw new SourceFailure('the source of a part failed', { cause })
          })
          if (signal?.aborted) throw cancelled(signal)
          if (block === null) return
          await writeWhole(file, block.bytes)
          reader.release(block)
        }
      })
      const part = { number, sizeBytes, crc32: reader.crc32 }
      await this.#install(path, uploadId, part)
      return { ...part, etag: etagOf(part) }
    } finally {
      signal?.removeEventListener('abort', stop)
      reader.stop()
      await rm(path, { force: true })
    }
  }

  async listParts(key: string, uploadId: string): Promise<StoredPart[]> {
    await this.#require(key, uploadId)
    const byNumber = new Map<number, StoredPart>()
    for (const name of await readdir(this.#folder(uploadId))) {
      const part = parsePart(name)
      if (part !== null) byNumber.set(part.number, part)
    }
    return [...byNumber.values()].sort((a, b) => a.number - b.number)
  }

  async list(
    isWanted: (upload: Upload) => boolean,
    most: number
  ): Promise<{ key: string; uploadId: string; initiatedAt: number }[]> {
    const found = []
    for (const uploadId of await readdir(this.#around.folder)) {
      const upload = await this.#read(uploadId)
      if (upload === null || !isWanted(upload)) continue
      found.push({ key: upload.key, uploadId, initiatedAt: upload.initiatedAt })
      if (found.length >= most) break
    }
    return found
  }

  complete(key: string, uploadId: string, wanted: CompleteOptions): Promise<StoredObject> {
    return this.#around.lock(`upload ${uploadId}`, async () => {
      const { sizeBytes, crc32, condition, signal } = wanted
      if (signal?.aborted) throw cancelled(signal)
      const upload = await this.#read(uploadId)
      if (upload?.key !== key) {
        const there = await this.#around.head(key)
        if (there?.sizeBytes === sizeBytes && there.crc32 === crc32) return there
        throw noSuchUpload(uploadId)
      }
      const parts = [...wanted.parts].sort((a, b) => a.number - b.number)
      if (crc32Of(parts) !== crc32 || parts.reduce((sum, part) => sum + part.sizeBytes, 0) !== sizeBytes) {
        throw new IngestError('CHECKSUM_MISMATCH', `store: the parts of ${key} do not make ${sizeBytes} bytes ${crc32}`)
      }
      const path = this.#around.newTemporary()
      try {
        await this.#join(uploadId, parts, path, signal)
      } catch (error) {
        if (signal?.aborted) throw cancelled(signal)
        if (hasCode(error, 'ENOENT')) throw new IngestError('STORE_REJECTED', `store: a part of ${key} is not there`)
        throw error
      }
      const stored = await this.#around.commit(path, { key, sizeBytes, crc32, metadata: upload.metadata }, condition)
      await this.#remove(uploadId)
      return stored
    })
  }

  async abort(key: string, uploadId: string): Promise<void> {
    if ((await this.#read(uploadId))?.key === key) await this.#remove(uploadId)
  }

  async #join(uploadId: string, parts: StoredPart[], path: string, signal?: AbortSignal): Promise<void> {
    const folder = this.#folder(uploadId)
    const [only] = parts
    if (parts.length === 1 && only) {
      // Its checksum was taken as it was written; a second name for it costs nothing.
      await link(join(folder, partName(only)), path)
      return
    }
    const buffer = Buffer.allocUnsafe(copyBytes)
    await newFile(path, async (file) => {
      for (const part of parts) {
        const sum = await append(file, join(folder, partName(part)), buffer, signal)
        if (sum === part.crc32) continue
        throw new IngestError('CHECKSUM_MISMATCH', `store: part ${part.number} has CRC-32 ${sum}, was ${part.crc32}`)
      }
    })
  }

  async #install(path: string, uploadId: string, part: Omit<StoredPart, 'etag'>): Promise<void> {
    const folder = this.#folder(uploadId)
    try {
      await rename(path, join(folder, partName(part)))
      const prefix = partName(part).slice(0, 6)
      for (const name of await readdir(folder)) {
        if (name.startsWith(prefix) && name !== partName(part)) await rm(join(folder, name), { force: true })
      }
      await syncFolder(folder)
    } catch (error) {
      throw hasCode(error, 'ENOENT') ? noSuchUpload(uploadId) : error
    }
  }

  /** Renamed first: an upload whose parts are half removed is none any more. */
  async #remove(uploadId: string): Promise<void> {
    const path = this.#around.newTemporary()
    await orNull(rename(this.#folder(uploadId), path))
    await rm(path, { recursive: true, force: true, maxRetries: 3 })
  }

  async #require(key: string, uploadId: string): Promise<void> {
    if ((await this.#read(uploadId))?.key !== key) throw noSuchUpload(uploadId)
  }

  async #read(uploadId: string): Promise<Upload | null> {
    if (!/^[0-9a-f-]{36}$/.test(uploadId)) return null
    const text = await orNull(readFile(join(this.#folder(uploadId), 'upload.json'), 'utf8'))
    try {
      return text === null ? null : JSON.parse(text)
    } catch {
      // Half a description: its process is at it, or died there, and nobody was given this id.
      return null
    }
  }

  #folder(uploadId: string): string {
    return join(this.#around.folder, uploadId)
  }
}

function partName({ number, sizeBytes, crc32 }: Omit<StoredPart, 'etag'>): string {
  return `${String(number).padStart(5, '0')}-${sizeBytes}-${crc32}.part`
}

function parsePart(name: string): StoredPart | null {
  const [, number, size, crc32] = /^(\d{5})-(\d+)-([0-9a-f]{8})\.part$/.exec(name) ?? []
  if (number === undefined) return null
  const part = { number: Number(number), sizeBytes: Number(size), crc32: crc32! }
  return { ...part, etag: etagOf(part) }
}

function etagOf({ sizeBytes, crc32 }: { sizeBytes: number; crc32: string }): string {
  return `${crc32}-${sizeBytes}`
}

function noSuchUpload(uploadId: string): IngestError {
  return new IngestError('STORE_NO_SUCH_UPLOAD', `store: there is no upload ${uploadId}`)
}
