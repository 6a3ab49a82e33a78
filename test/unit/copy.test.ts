import { describe, expect, test } from '@jest/globals'
import type { FileRecord } from '../../domain/file-record.ts'
import { outcomeOf } from '../../domain/outcome.ts'
import { copyFile } from '../../drivers/copy.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'

const TIB = 1024 ** 4

describe('copyFile', () => {
  test('a file over the limit of the store fails for good before anything is asked of the server or the store', async () => {
    const untouched = <T extends object>(known: Partial<T>) =>
      new Proxy(known, {
        get(target, name) {
          if (name in target) return target[name as keyof T]
          throw new Error(`${String(name)} was asked for`)
        }
      }) as T
    const limits = {
      minPartBytes: 5 * 1024 ** 2,
      maxPartBytes: 5 * 1024 ** 3,
      maxParts: 10_000,
      maxObjectBytes: 5 * TIB
    }
    const copying = copyFile(untouched<Sftp>({}), untouched<ObjectStore>({ limits }), {
      file: { _id: 'f', path: '/f', size: 5 * TIB + 1, upload: null, reservedKey: 'f', epoch: 1 } as FileRecord,
      checksum: 'crc32',
      signal: new AbortController().signal,
      keepUpload: () => Promise.reject(new Error('the record was written')),
      stillOurs: async () => {},
      isLeaving: () => false,
      onBytes: () => {},
      onKept: () => {}
    })
    const error = await copying.catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ type: 'FILE_TOO_LARGE' })
    expect(outcomeOf(error, 0)).toMatchObject({ kind: 'rejected' })
  })
})
