import { describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { FileRecord } from '../../domain/file.ts'
import { copyFile } from '../../drivers/copy.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'

const file = { _id: 'f', path: '/f', size: 10, mtime: 1000, epoch: 1, version: 1, reservedKey: 'f', upload: null }

/** A server whose READs fail, and which then shows a file of `sizeAfter` bytes; null: that cannot be seen. */
function copyThatFails(error: IngestError, sizeAfter: number | null) {
  let size: number | null = file.size
  const stat = async () => {
    if (size === null) throw new IngestError('SFTP_PERMISSION_DENIED', 'not yours')
    return { kind: 'file', sizeBytes: size, mtimeSeconds: 1, mode: 0o644, uid: 0, gid: 0 }
  }
  const handle = {
    stat,
    close: async () => undefined,
    async readSmall() {
      size = sizeAfter
      throw error
    }
  }
  const sftp = { latencyMs: 1, maxChannels: 10, stat, open: async () => handle } as unknown as Sftp
  const store = { limits: { maxObjectBytes: 1000 }, listUploads: async () => [] } as unknown as ObjectStore
  return copyFile(sftp, store, {
    file: file as unknown as FileRecord,
    checksum: 'crc32',
    signal: new AbortController().signal,
    keepUpload: async () => undefined,
    stillOurs: async () => undefined,
    onBytes: () => undefined,
    onKept: () => undefined,
    isLeaving: () => false
  })
}

const refusal = new IngestError('SFTP_FAILURE', 'the server says "invalid seek position"')

describe('a read that the server refuses', () => {
  test('is a changed file when the file is another one now: some servers say so of one that was cut', async () => {
    expect(await copyThatFails(refusal, 4)).toEqual({ kind: 'changed', size: 4, mtime: 1000 })
  })

  test('is that failure when the file is still the same', async () => {
    await expect(copyThatFails(refusal, 10)).rejects.toBe(refusal)
  })

  test('is that failure when the file cannot be looked at any more', async () => {
    await expect(copyThatFails(refusal, null)).rejects.toBe(refusal)
  })

  test('is no change of the file when it is the connection that fails', async () => {
    const lost = new IngestError('SFTP_CONNECTION_LOST', 'lost')
    await expect(copyThatFails(lost, 4)).rejects.toBe(lost)
  })
})
