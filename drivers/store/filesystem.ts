import { createHash, randomUUID } from 'node:crypto'
import { link, open, readdir, readFile, rename, rm, stat, unlink, utimes } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { Readable } from 'node:stream'
import { pathToFileURL } from 'node:url'
import { crc32 } from 'node:zlib'
import { crc32Hex } from '../../domain/crc32.ts'
import { IngestError } from '../../domain/errors.ts'
import { isHeldFolder } from '../held-folders.ts'
import { cancelled } from './blocks.ts'
import {
  hasCode,
  type KeyedLock,
  makeFolder,
  orNull,
  removeUpTo,
  sweep,
  syncFolder,
  translate,
  translated,
  writeNew
} from './filesystem-files.ts'
import { pathOf } from './filesystem-path.ts'
import { FilesystemUploads } from './filesystem-uploads.ts'
import type { Condition, ObjectStore, StoredObject } from './store.ts'

export interface FilesystemOptions {
  folder: string
  bucket: string
  /** Where the bytes are served by key; the addresses are `file:` URLs without it. */
  baseUrl?: string
  /** While this process holds that folder it is the only one at work here, and temporary files of others are dead. */
  heldBy?: string
}

const MiB = 1024 * 1024
/** Those of S3, so that a file is cut the same way wherever it goes. */
const limits = { minPartBytes: 5 * MiB, maxPartBytes: 5120 * MiB, maxParts: 10_000, maxObjectBytes: 5 * 1024 ** 4 }
const temporaryForMs = 24 * 3600 * 1000
/** What the names of temporary files of this process begin with. */
const run = randomUUID()

/** What a file system does not keep of an object. */
interface Version {
  key: string
  etag: string
  crc32: string
  metadata: Record<string, string>
}

/**
 * Objects as files below `folder`/`bucket`, at paths of `filesystem-path.ts`; beside them `.longshore`:
 *
 *   versions/<ab>/<sha256 of the key>/<mtime ms>-<size>.json   etag, checksum, metadata of one version
 *   uploads/<id>/                                              see filesystem-uploads.ts
 *   temporary/                                                 what is being written or removed; see below
 *
 * A write makes a whole synced temporary file, reserves a modification time that no version of that key and size has
 * (the version's file is created exclusively), gives it to the bytes, and only then links or renames these into place:
 * that one step is the write, so no half object is ever seen and what is seen has its version, also after a crash and
 * after a copy that keeps times (`rsync -a`, `tar`). A file that someone put there by hand is an object without
 * checksum and metadata. `ifNoneMatch` holds across processes (a link fails where something is), `ifMatch` within one.
 *
 * What a process that died left in `temporary` is swept: at once where this process holds the data folder, and otherwise
 * after a day, since another one may still be at it. Where it holds the folder, what such a process had reserved in
 * `versions` goes, too, when the key is next written or removed.
 */
export function filesystemStore({ folder, bucket, baseUrl, heldBy }: FilesystemOptions): ObjectStore {
  if (!/^[a-z0-9][a-z0-9.-]{1,62}$/.test(bucket)) throw new IngestError('INVALID', `not a bucket's name: ${bucket}`)
  const root = resolve(folder, bucket)
  const own = join(root, '.longshore')
  const temporary = join(own, 'temporary')
  const lock = keyedLock()
  const place = (key: string) => join(root, pathOf(key))
  const newTemporary = () => join(temporary, `${run}-${randomUUID()}`)
  const isAlone = () => heldBy !== undefined && isHeldFolder(heldBy)
  const isDead = (name: string) => isAlone() && !name.startsWith(run)
  const uploads = new FilesystemUploads({ folder: join(own, 'uploads'), newTemporary, lock, head, require, commit })

  return {
    bucket,
    limits,

    ensureReady: () =>
      translated(async () => {
        for (const path of [temporary, join(own, 'uploads'), join(own, 'versions')]) await makeFolder(path)
        await sweep(temporary, isDead, Date.now() - temporaryForMs)
      }),

    head: (key, signal) => translated(() => head(key, signal)),

    put: (key, body, { metadata, crc32: wanted, condition, signal }) =>
      translated(async () => {
        if (signal?.aborted) throw cancelled(signal)
        const sum = crc32Hex(crc32(body))
        if (sum !== wanted) {
          throw new IngestError('CHECKSUM_MISMATCH', `store: ${key} has CRC-32 ${sum} and was said to have ${wanted}`)
        }
        const path = newTemporary()
        await writeNew(path, body)
        return commit(path, { key, sizeBytes: body.length, crc32: sum, metadata }, condition)
      }),

    createUpload: (key, metadata, condition) => translated(() => uploads.create(key, metadata, condition)),
    uploadPart: (key, uploadId, part) => translated(() => uploads.writePart(key, uploadId, part)),
    listParts: (key, uploadId) => translated(() => uploads.listParts(key, uploadId)),
    listUploads: (key) =>
      translated(async () => {
        const found = await uploads.list((upload) => upload.key === key, Number.POSITIVE_INFINITY)
        return found.map(({ uploadId, initiatedAt }) => ({ uploadId, initiatedAt }))
      }),
    listStaleUploads: (initiatedBefore) =>
      translated(() => uploads.list((upload) => upload.initiatedAt < initiatedBefore, 1000)),
    completeUpload: (key, uploadId, wanted) => translated(() => uploads.complete(key, uploadId, wanted)),
    abortUpload: (key, uploadId) => translated(() => uploads.abort(key, uploadId)),

    read: (key, { range, signal } = {}) =>
      translated(async () => {
        if (signal?.aborted) throw cancelled(signal)
        const file = await orNull(open(place(key), 'r'))
        if (file === null) throw new IngestError('STORE_NO_SUCH_OBJECT', `store: there is no ${key}`)
        const { size } = await file.stat()
        if (range && range.start >= size) {
          await file.close()
          throw new IngestError('STORE_REJECTED', `store: ${key} has ${size} bytes, none at ${range.start}`)
        }
        const source = file.createReadStream({ ...range, signal, highWaterMark: MiB, autoClose: true })
        async function* bytes() {
          try {
            yield* source
          } catch (error) {
            throw signal?.aborted ? cancelled(signal) : translate(error)
          }
        }
        const stream = Readable.from(bytes(), { objectMode: false, highWaterMark: MiB })
        // A stream that is destroyed before its first read never starts `bytes`, which would keep the file open.
        return stream.once('close', () => source.destroy())
      }),

    remove: (key) =>
      translated(() =>
        lock(key, async () => {
          const path = place(key)
          const found = await orNull(stat(path))
          if (found !== null) await removeUpTo(root, path)
          if (isAlone()) await removeVersions(versionsOf(key), [])
          if (found !== null) await removeUpTo(join(own, 'versions'), versionPath(key, found))
        })
      ),

    url: (key) =>
      baseUrl === undefined
        ? pathToFileURL(place(key)).href
        : `${baseUrl.replace(/\/+$/, '')}/${bucket}/${key.split('/').map(encodeURIComponent).join('/')}`,

    presignedUrl: async () => null,
    close: async () => {}
  }

  async function head(key: string, signal?: AbortSignal): Promise<StoredObject | null> {
    if (signal?.aborted) throw cancelled(signal)
    const found = await orNull(stat(place(key)))
    if (!found?.isFile()) return null
    const version = await readVersion(versionPath(key, found))
    if (version === null) {
      const etag = createHash('md5').update(`${found.size} ${found.mtimeMs}`).digest('hex')
      return { key, sizeBytes: found.size, etag, crc32: null, metadata: {} }
    }
    return { key, sizeBytes: found.size, etag: version.etag, crc32: version.crc32, metadata: version.metadata }
  }

  /** Makes a whole temporary file the object of its key; the file is gone afterwards, come what may. */
  async function commit(path: string, object: Omit<StoredObject, 'etag'>, condition: Condition): Promise<StoredObject> {
    const { key } = object
    const stored: StoredObject = { ...object, etag: randomUUID().replaceAll('-', '') }
    try {
      return await lock(key, async () => {
        // Another process may remove a folder that it found empty just before our file gets there.
        for (let tries = 0; ; tries++) {
          try {
            await commitOnce(path, stored, condition)
            return stored
          } catch (error) {
            if (!hasCode(error, 'ENOENT') || tries === 5) throw error
          }
        }
      })
    } finally {
      await rm(path, { force: true })
    }
  }

  /** Rejects with STORE_PRECONDITION when the condition does not hold. */
  async function require(key: string, condition: Condition): Promise<void> {
    if (condition === null) return
    const there = await orNull(stat(place(key)))
    const etag = there && (await head(key))?.etag
    const holds = 'ifMatch' in condition ? etag === condition.ifMatch : there === null
    if (!holds) throw preconditionFailed(key)
  }

  async function commitOnce(path: string, stored: StoredObject, condition: Condition): Promise<void> {
    const { key } = stored
    const target = place(key)
    const before = await orNull(stat(target))
    await require(key, condition)
    const { reserved, isFirst } = await reserveVersion(path, stored)
    const previous = before && versionPath(key, before)
    try {
      // Before the write: whoever finds the object whole after a crash has no reason to come here again.
      if (!isFirst && isAlone()) await removeVersions(dirname(reserved), [reserved, previous])
      await makeFolder(dirname(target))
      if (condition !== null && 'ifNoneMatch' in condition) {
        await link(path, target)
        await unlink(path)
      } else await rename(path, target)
    } catch (error) {
      await rm(reserved, { force: true })
      throw hasCode(error, 'EEXIST') ? preconditionFailed(key) : error
    }
    await syncFolder(dirname(target))
    if (previous !== null && previous !== reserved) await rm(previous, { force: true })
  }

  /** Of one key, those too that were reserved by writers who died before they had made them its object. */
  async function removeVersions(folder: string, kept: (string | null)[]): Promise<void> {
    for (const name of (await orNull(readdir(folder))) ?? []) {
      const path = join(folder, name)
      if (!kept.includes(path)) await rm(path, { force: true })
    }
  }

  /** `isFirst`: there was nothing of its key before. */
  async function reserveVersion(path: string, { key, sizeBytes, etag, crc32, metadata }: StoredObject) {
    const version: Version = { key, etag, crc32: crc32!, metadata }
    const isFirst = await makeFolder(versionsOf(key))
    for (let mtimeMs = Date.now(); ; mtimeMs++) {
      await utimes(path, mtimeMs / 1000, mtimeMs / 1000)
      const reserved = versionPath(key, { size: sizeBytes, mtimeMs: (await stat(path)).mtimeMs })
      try {
        await writeNew(reserved, JSON.stringify(version))
        return { reserved, isFirst }
      } catch (error) {
        if (!hasCode(error, 'EEXIST')) throw error
      }
    }
  }

  function versionsOf(key: string): string {
    const hash = createHash('sha256').update(key).digest('hex')
    return join(own, 'versions', hash.slice(0, 2), hash)
  }

  function versionPath(key: string, { size, mtimeMs }: { size: number; mtimeMs: number }): string {
    return join(versionsOf(key), `${Math.round(mtimeMs)}-${size}.json`)
  }

  async function readVersion(path: string): Promise<Version | null> {
    const text = await orNull(readFile(path, 'utf8'))
    return text === null ? null : JSON.parse(text)
  }
}

function preconditionFailed(key: string): IngestError {
  return new IngestError('STORE_PRECONDITION', `store: ${key} is not what the condition asked for`)
}

/** Work of one key happens one after another, in the order in which it was asked for. */
function keyedLock(): KeyedLock {
  const tails = new Map<string, Promise<unknown>>()
  return async (key, work) => {
    const turn = (tails.get(key) ?? Promise.resolve()).then(work, work)
    tails.set(key, turn)
    try {
      return await turn
    } finally {
      if (tails.get(key) === turn) tails.delete(key)
    }
  }
}
