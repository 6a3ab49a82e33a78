import { describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { ServerPolicy } from '../../domain/server.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import { lookAgain } from '../../workers/look.ts'
import { fakeSftp } from '../support/fake-sftp.ts'

const policy = {
  roots: ['/in'],
  symlinks: 'skip',
  include: ['sub/*'],
  exclude: ['*.no'],
  tempPatterns: [],
  emptyFiles: 'skip',
  maxSize: null
} as unknown as ServerPolicy

describe('lookAgain', () => {
  test('answers what is there as the policy sees it, and what is gone', async () => {
    const { sftp } = fakeSftp({
      '/in/sub/a': { kind: 'file', size: 5, mtime: 7 },
      '/in/sub/empty': { kind: 'file', size: 0, mtime: 7 },
      '/in/sub/x.no': { kind: 'file', size: 5 },
      '/in/sub/folder/f': { kind: 'file' },
      '/in/sub/link': { kind: 'link', to: '/in/sub/a' }
    })
    const paths = ['a', 'empty', 'x.no', 'folder', 'link', 'gone'].map((name) => `/in/sub/${name}`)
    expect(await lookAgain(sftp, policy, paths)).toEqual({
      seen: [
        { path: '/in/sub/a', size: 5, mtime: 7000, skip: null },
        { path: '/in/sub/empty', size: 0, mtime: 7000, skip: 'empty' }
      ],
      gone: ['/in/sub/gone']
    })
    const followed = await lookAgain(sftp, { ...policy, symlinks: 'follow' }, ['/in/sub/link'])
    expect(followed.seen).toMatchObject([{ path: '/in/sub/link', size: 5 }])
  })

  test('a file that cannot be looked at is neither seen nor gone, and a lost connection ends the look', async () => {
    const failing = (type: 'SFTP_PERMISSION_DENIED' | 'SFTP_CONNECTION_LOST') =>
      ({ lstat: () => Promise.reject(new IngestError(type, type)) }) as unknown as Sftp
    expect(await lookAgain(failing('SFTP_PERMISSION_DENIED'), policy, ['/in/sub/a'])).toEqual({ seen: [], gone: [] })
    await expect(lookAgain(failing('SFTP_CONNECTION_LOST'), policy, ['/in/sub/a'])).rejects.toMatchObject({
      type: 'SFTP_CONNECTION_LOST'
    })
  })
})
