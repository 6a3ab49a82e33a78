import { type FileHandle, mkdir, open, readdir, rm, rmdir, stat, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { crc32 } from 'node:zlib'
import { crc32Hex } from '../../domain/crc32.ts'
import { errorType, IngestError } from '../../domain/errors.ts'

/** Runs work of one key one after another. */
export type KeyedLock = <T>(key: string, work: () => Promise<T>) => Promise<T>

export const fileMode = 0o600
const folderMode = 0o700

/** An error of whoever feeds the store: it passes through unchanged, even where it has an errno. */
export class SourceFailure extends Error {}

/** Runs `work` and translates what the file system threw. */
export async function translated<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof SourceFailure) throw error.cause
    throw translate(error)
  }
}

export function translate(error: unknown): unknown {
  if (errorType(error) !== 'INTERNAL' || (error as { type?: unknown }).type === 'INTERNAL') return error
  const { code, message } = error as NodeJS.ErrnoException
  const data = { code }
  const said = `store: ${message}`
  if (code === 'ENOSPC' || code === 'EDQUOT') return new IngestError('STORE_FULL', said, { data, cause: error })
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
    return new IngestError('STORE_DENIED', said, { data, cause: error })
  }
  if (code === 'ENAMETOOLONG') return new IngestError('STORE_REJECTED', said, { data, cause: error })
  return new IngestError('STORE_UNAVAILABLE', said, { data, cause: error })
}

export function hasCode(error: unknown, ...codes: string[]): boolean {
  return codes.includes((error as NodeJS.ErrnoException)?.code ?? '')
}

/** What `work` gives, or null when the file or a folder above it is not there. */
export async function orNull<T>(work: Promise<T>): Promise<T | null> {
  try {
    return await work
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return null
    throw error
  }
}

/** Answers whether it was not there. */
export async function makeFolder(path: string): Promise<boolean> {
  return (await mkdir(path, { recursive: true, mode: folderMode })) !== undefined
}

/** Makes names in a folder survive a loss of power. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Writes a new file, synced, or none: EEXIST when it is there. */
export async function writeNew(path: string, bytes: Buffer | string): Promise<void> {
  await newFile(path, (file) => file.writeFile(bytes))
}

/** Makes a new file from what `write` puts into it; it is removed again when that fails. */
export async function newFile(path: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, 'wx', fileMode)
  try {
    await write(file)
    await file.sync()
  } catch (error) {
    await rm(path, { force: true })
    throw error
  } finally {
    await file.close()
  }
}

export async function writeWhole(file: FileHandle, bytes: Buffer): Promise<void> {
  for (let start = 0; start < bytes.length; ) start += (await file.write(bytes, start)).bytesWritten
}

/** Appends a file to another and gives its CRC-32. */
export async function append(target: FileHandle, path: string, buffer: Buffer, signal?: AbortSignal): Promise<string> {
  const source = await open(path, 'r')
  let crc = 0
  try {
    for (;;) {
      signal?.throwIfAborted()
      const { bytesRead } = await source.read(buffer, 0, buffer.length)
      if (bytesRead === 0) return crc32Hex(crc)
      const bytes = buffer.subarray(0, bytesRead)
      crc = crc32(bytes, crc)
      await writeWhole(target, bytes)
    }
  } finally {
    await source.close()
  }
}

/** Removes a file and then the folders above it that this left empty, up to `root`. */
export async function removeUpTo(root: string, path: string): Promise<void> {
  await orNull(unlink(path))
  for (let folder = dirname(path); folder !== root; folder = dirname(folder)) {
    try {
      await rmdir(folder)
    } catch {
      return
    }
  }
}

/** Removes what writers that died left behind: all names that are dead, and what was last written before `olderThan`. */
export async function sweep(folder: string, isDead: (name: string) => boolean, olderThan: number): Promise<void> {
  for (const name of await readdir(folder)) {
    const path = join(folder, name)
    const found = isDead(name) ? null : await orNull(stat(path))
    if (found === null || found.mtimeMs < olderThan) await rm(path, { recursive: true, force: true })
  }
}
