import { describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { ServerPolicy } from '../../domain/server.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import { lookAgain } from '../../workers/look.ts'
import { fakeSftp } from '../support/fake-sftp.ts'

const policy = {
  roots: ['/in'],
  recursive: true,
  maxDepth: 32,
  symlinks: 'skip',
  include: ['sub/*'],
  exclude: ['*.no'],
  tempPatterns: [],
  emptyFiles: 'skip',
  maxSize: null,
  marker: null,
  movedInto: []
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
        { path: '/in/sub/empty', size: 0, mtime: 7000, skip: 'empty' },
        { path: '/in/sub/x.no', size: 5, mtime: 1000, skip: 'matched by exclude, `*.no`' }
      ],
      gone: ['/in/sub/folder', '/in/sub/link', '/in/sub/gone']
    })
    const followed = await lookAgain(sftp, { ...policy, symlinks: 'follow' }, ['/in/sub/link'])
    expect(followed.seen).toMatchObject([{ path: '/in/sub/link', size: 5 }])
  })

  test('a file that cannot be looked at is neither seen nor gone, and a lost connection ends the look', async () => {
    const failing = (type: 'SFTP_PERMISSION_DENIED' | 'SFTP_CONNECTION_LOST') =>
      ({
        realpath: async (path: string) => path,
        lstat: () => Promise.reject(new IngestError(type, type))
      }) as unknown as Sftp
    expect(await lookAgain(failing('SFTP_PERMISSION_DENIED'), policy, ['/in/sub/a'])).toEqual({ seen: [], gone: [] })
    await expect(lookAgain(failing('SFTP_CONNECTION_LOST'), policy, ['/in/sub/a'])).rejects.toMatchObject({
      type: 'SFTP_CONNECTION_LOST'
    })
  })

  test('the place of a file is that below its resolved root', async () => {
    const { sftp } = fakeSftp({ '/out': { kind: 'link', to: '/in' }, '/in/sub/a': { kind: 'file', size: 5 } })
    const { seen } = await lookAgain(sftp, { ...policy, roots: ['/out', '/missing'] }, ['/in/sub/a'])
    expect(seen).toMatchObject([{ path: '/in/sub/a', skip: null }])
    const moved = await lookAgain(sftp, { ...policy, roots: ['/missing'] }, ['/in/sub/a'])
    expect(moved.seen).toMatchObject([{ path: '/in/sub/a', skip: 'outside the roots' }])
  })

  test('a file is looked at with its marker, which is asked for once a folder where it is one for all', async () => {
    const fake = fakeSftp({
      '/in/sub/a': { kind: 'file', size: 5, mtime: 7 },
      '/in/sub/b': { kind: 'file', size: 5, mtime: 9 },
      '/in/sub/ok': { kind: 'file', size: 0, mtime: 8 }
    })
    const { seen } = await lookAgain(fake.sftp, { ...policy, marker: { file: 'ok' } }, ['/in/sub/a', '/in/sub/b'])
    expect(seen).toEqual([
      { path: '/in/sub/a', size: 5, mtime: 7000, skip: null },
      { path: '/in/sub/b', size: 5, mtime: 9000, skip: null, wait: expect.stringContaining('older') }
    ])
    expect(fake.looked.filter((path) => path === '/in/sub/ok')).toHaveLength(1)
  })
})
