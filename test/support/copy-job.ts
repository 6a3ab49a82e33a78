/** A file as a worker has claimed it, and the job of copying it, among stand-ins for the services. */
import { stat } from 'node:fs/promises'
import type { FileRecord } from '../../domain/file-record.ts'
import type { CopyJob } from '../../drivers/copy.ts'

/** Of a file of this machine, as it is now; its object's key is `key`. */
export async function claimedFile(path: string, key = 'copy'): Promise<FileRecord> {
  const { size, mtime } = await stat(path)
  const of = { _id: `id of ${key}`, path, size, mtime: Math.floor(mtime.getTime() / 1000) * 1000 }
  return { ...of, version: 1, epoch: 1, reservedKey: key, upload: null, object: null } as FileRecord
}

/** Nobody takes the file away or hears of it, unless `more` says so. */
export function copyJob(file: FileRecord, more: Partial<CopyJob> = {}): CopyJob {
  return {
    file,
    checksum: 'crc32',
    signal: new AbortController().signal,
    keepUpload: async () => undefined,
    stillOurs: async () => undefined,
    onBytes: () => undefined,
    onKept: () => undefined,
    isLeaving: () => false,
    ...more
  }
}
