import { describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { Sighting } from '../../domain/readiness.ts'
import type { ServerPolicy } from '../../domain/server.ts'
import { scanServer } from '../../workers/scan.ts'
import { type FakeSftp, fakeSftp, type Node } from '../support/fake-sftp.ts'
import { scanPolicy } from '../support/scan-policy.ts'

const file: Node = { kind: 'file', size: 1 }
const denied = new IngestError('SFTP_PERMISSION_DENIED', 'denied')

async function scan(
  source: FakeSftp | Record<string, Node>,
  changes: Partial<ServerPolicy> = {},
  known: { id: string; path: string }[] = [],
  signal = new AbortController().signal
) {
  const fake = 'sftp' in source ? (source as FakeSftp) : fakeSftp(source as Record<string, Node>)
  const batches: Sighting[][] = []
  const vanished: string[] = []
  const result = await scanServer(
    fake.sftp,
    { ...scanPolicy, ...changes },
    {
      register: async (sightings) => {
        batches.push(sightings)
        const none = { settling: 0, skipped: 0, atRest: [], disturbed: [] }
        return { ...none, new: sightings.length, pending: sightings.length }
      },
      unstored: async (after) => known.filter(({ id }) => id > after).slice(0, 2),
      vanished: async (ids) => {
        vanished.push(...ids)
      },
      now: () => 5,
      signal
    }
  )
  const paths = batches.flat().map(({ path }) => path)
  return { ...result, batches, paths: paths.sort(), vanished, ...fake }
}

describe('scanServer', () => {
  test('every file of every folder is registered once, with its size and time', async () => {
    const tree = {
      '/a': { kind: 'file', size: 7, mtime: 9 },
      '/b/c': file,
      '/b/d/e': file,
      '/empty': { kind: 'folder' }
    }
    const { paths, batches, summary, problem } = await scan(tree as Record<string, Node>)
    expect(paths).toEqual(['/a', '/b/c', '/b/d/e'])
    expect(batches[0]![0]).toEqual({ path: '/a', size: 7, mtime: 9000, skip: null })
    expect(summary).toMatchObject({ listed: 3, new: 3, pending: 3, quarantined: 0, complete: true })
    expect(problem).toBeNull()
  })

  test('links, pipes and devices are passed over', async () => {
    const tree: Record<string, Node> = { '/l': { kind: 'link', to: '/b' }, '/p': { kind: 'other' }, '/b/c': file }
    expect((await scan(tree)).paths).toEqual(['/b/c'])
  })

  test('a folder is left at maxDepth, or at once where nothing below is wanted', async () => {
    const tree = { '/a': file, '/1/b': file, '/1/2/c': file, '/1/2/3/d': file }
    expect((await scan(tree, { maxDepth: 0 })).paths).toEqual(['/a'])
    expect((await scan(tree, { maxDepth: 2 })).paths).toEqual(['/1/2/c', '/1/b', '/a'])
    expect((await scan(tree, { recursive: false })).paths).toEqual(['/a'])
  })

  test('our own working folders are never listed', async () => {
    expect((await scan({ '/.longshore-x/a': file, '/b/.longshore-y': file, '/c': file })).paths).toEqual(['/c'])
  })

  test('patterns see the path below the root', async () => {
    const tree = { '/home/in/a.csv': file, '/home/b.csv': file }
    expect((await scan(tree, { roots: ['/home'], include: ['in/*.csv'] })).paths).toEqual(['/home/in/a.csv'])
  })

  test('roots that are links are resolved, and paths are the real ones', async () => {
    const tree: Record<string, Node> = { '/out': { kind: 'link', to: '/data/1' }, '/data/1/a': file, '/data/2/b': file }
    expect((await scan(tree, { roots: ['/out'] })).paths).toEqual(['/data/1/a'])
    expect((await scan(tree, { roots: ['/out', '/data'] })).paths).toEqual(['/data/1/a', '/data/2/b'])
  })

  describe('following links', () => {
    const follow = { symlinks: 'follow' as const }

    test('files behind links are taken, and links that lead nowhere are not', async () => {
      const tree: Record<string, Node> = {
        '/l': { kind: 'link', to: '/b/c' },
        '/b/c': file,
        '/x': { kind: 'link', to: '/no' }
      }
      expect((await scan(tree, follow)).paths).toEqual(['/b/c', '/l'])
    })

    test('loops end, in whatever order a listing shows them', async () => {
      const trees: [string, Node][] = [
        ['/a/self', { kind: 'link', to: '/a' }],
        ['/a/z', { kind: 'link', to: '/z' }],
        ['/a/up', { kind: 'link', to: '/' }],
        ['/z/one', { kind: 'link', to: '/z' }],
        ['/z/two', { kind: 'link', to: '/a' }],
        ['/z/file', file],
        ['/a/file', file]
      ]
      for (const order of [trees, [...trees].reverse()]) {
        const { paths, listed, summary } = await scan(Object.fromEntries(order), follow)
        expect(paths).toEqual(['/a/file', '/z/file'])
        expect(listed.length).toBe(3)
        expect(summary.complete).toBe(true)
      }
    })

    test('loops that no plain folder reaches end too', async () => {
      const tree: Record<string, Node> = {
        '/deep/er/hidden/x': { kind: 'link', to: '/deep/er/hidden' },
        '/deep/er/hidden/y': { kind: 'link', to: '/deep/er/hidden' },
        '/deep/er/hidden/file': file,
        '/in': { kind: 'link', to: '/deep/er/hidden' }
      }
      const { paths, listed } = await scan(tree, { ...follow, maxDepth: 2 })
      expect(paths).toEqual(['/in/file'])
      expect(listed.length).toBeLessThan(6)
    })

    test('a folder outside the roots is not entered', async () => {
      const tree: Record<string, Node> = { '/in/l': { kind: 'link', to: '/etc' }, '/etc/passwd': file, '/in/a': file }
      expect((await scan(tree, { ...follow, roots: ['/in'] })).paths).toEqual(['/in/a'])
      expect(
        (await scan({ ...tree, '/in/l': { kind: 'link', to: '/in2' }, '/in2/b': file }, { ...follow, roots: ['/in/'] }))
          .paths
      ).toEqual(['/in/a'])
    })
  })

  describe('a folder that cannot be read', () => {
    const tree: Record<string, Node> = { '/a/x': file, '/locked': { kind: 'folder', error: denied }, '/z/y': file }
    const known = [{ id: '1', path: '/gone' }]

    test('is reported while the others are scanned, and nothing is called vanished', async () => {
      const { paths, problem, summary, vanished, looked } = await scan(tree, {}, known)
      expect(paths).toEqual(['/a/x', '/z/y'])
      expect(problem).toMatchObject({ type: 'ROOT_UNREADABLE', message: expect.stringContaining('/locked') })
      expect(summary.complete).toBe(false)
      expect([vanished, looked]).toEqual([[], []])
    })

    test('a root that is cut in the middle keeps what it showed, and the other roots are scanned', async () => {
      const cut: Record<string, Node> = { '/cut': { kind: 'folder', error: denied }, '/ok/x': file }
      for (let i = 0; i < 9; i++) cut[`/cut/${i}`] = file
      const { paths, summary, vanished } = await scan(cut, { roots: ['/cut', '/missing', '/ok'] }, known)
      expect(paths).toEqual(['/cut/0', '/cut/1', '/cut/2', '/ok/x'])
      expect(summary.complete).toBe(false)
      expect(vanished).toEqual([])
    })

    test('no readable root fails the scan', async () => {
      await expect(scan({ '/a': file }, { roots: ['/missing', '/none'] })).rejects.toMatchObject({
        type: 'ROOT_UNREADABLE'
      })
    })

    test('a lost connection fails the scan', async () => {
      const lost = new IngestError('SFTP_CONNECTION_LOST', 'lost')
      await expect(scan({ ...tree, '/locked': { kind: 'folder', error: lost } })).rejects.toBe(lost)
    })

    test('a scan that is broken off says so', async () => {
      const signal = AbortSignal.abort(new IngestError('CANCELLED', 'stopping'))
      await expect(scan(tree, {}, known, signal)).rejects.toMatchObject({ type: 'CANCELLED' })
    })
  })

  test('what a complete listing misses is looked at before it is called vanished', async () => {
    const known = ['/gone', '/a', '/hidden', '/gone too'].map((path, i) => ({ id: String(i), path }))
    const fake = fakeSftp({ '/a': file, '/hidden': file })
    const { vanished, looked } = await scan(fake, { exclude: ['hidden'] }, known)
    expect(vanished).toEqual(['0', '3'])
    expect(looked).toEqual(['/gone', '/hidden', '/gone too'])
  })

  test('a file is registered with what it waits for, wherever in the listing its marker stands', async () => {
    const done = (mtime: number): Node => ({ kind: 'file', mtime })
    const tree: Record<string, Node> = { '/z.ok': done(1) }
    for (const name of ['a', 'b', 'c', 'd', 'z', 'old']) tree[`/${name}`] = { kind: 'file', mtime: 1 }
    tree['/old'] = { kind: 'file', mtime: 2 }
    Object.assign(tree, { '/a.ok': done(1), '/old.ok': done(1), '/sub/_done': done(5), '/sub/x': done(5) })
    const beside = await scan(tree, { marker: { suffix: '.ok' } })
    const waiting = Object.fromEntries(beside.batches.flat().map(({ path, wait }) => [path, wait ?? null]))
    expect(waiting).toMatchObject({
      '/a': null,
      '/z': null,
      '/old': expect.stringContaining('older'),
      '/sub/x': expect.stringContaining('x.ok')
    })
    expect(Object.keys(waiting).filter((path) => path.endsWith('.ok'))).toEqual([])
    const folder = await scan(tree, { marker: { file: '_done' } })
    const free = folder.batches.flat().filter(({ wait }) => wait === undefined)
    expect(free.map(({ path }) => path)).toEqual(['/sub/x'])
  })

  test('a folder that files are moved into is not listed, by a link neither', async () => {
    const tree: Record<string, Node> = { '/done/a': file, '/b': file, '/l': { kind: 'link', to: '/done' } }
    const { paths, listed } = await scan(tree, { movedInto: ['done'], symlinks: 'follow' })
    expect(paths).toEqual(['/b'])
    expect(listed).toEqual(['/'])
  })

  test('a record that the policy of today would not make is skipped with the reason', async () => {
    const known = ['/a.tmp', '/b.csv', '/gone/c'].map((path, i) => ({ id: String(i), path }))
    const { batches, vanished } = await scan({ '/a.tmp': file, '/b.csv': file }, { tempPatterns: ['*.tmp'] }, known)
    expect(batches.flat().filter(({ skip }) => skip)).toMatchObject([
      { path: '/a.tmp', skip: 'a temporary name, by `*.tmp`' }
    ])
    expect(vanished).toEqual(['2'])
  })

  test('names that must not be touched are quarantined with a reason', async () => {
    const tree: Record<string, Node> = { '/in/bad': { kind: 'bad', reason: 'the name is not UTF-8' }, '/in/ok': file }
    const { quarantined, summary, paths } = await scan(tree)
    expect(quarantined).toEqual([{ folder: '/in', reason: 'the name is not UTF-8' }])
    expect(summary.quarantined).toBe(1)
    expect(paths).toEqual(['/in/ok'])
  })

  test('quarantined names are counted, and only the first hundred kept', async () => {
    const tree = Object.fromEntries(
      Array.from({ length: 250 }, (_, i) => [`/${i}`, { kind: 'bad', reason: 'bad' } as Node])
    )
    const { quarantined, summary } = await scan(tree)
    expect([quarantined.length, summary.quarantined]).toEqual([100, 250])
  })

  test('what the policy skips is reported with its reason', async () => {
    const { batches } = await scan({ '/a': { kind: 'file', size: 0 } }, { emptyFiles: 'skip' })
    expect(batches).toEqual([[{ path: '/a', size: 0, mtime: 1000, skip: 'empty' }]])
  })

  test.each([
    ['plain', 'n', 1200],
    ['of control characters', '\u0001', 600],
    ['of Chinese', '文', 600]
  ])('batches of names %s stay below 1 MiB on the wire, and 500 files', async (_, character, count) => {
    const tree = Object.fromEntries(Array.from({ length: count }, (_, i) => [`/${character.repeat(1200)}${i}`, file]))
    const { batches, paths } = await scan(tree)
    expect(paths.length).toBe(count)
    for (const batch of batches) {
      expect(batch.length).toBeLessThanOrEqual(500)
      expect(Buffer.byteLength(JSON.stringify(batch))).toBeLessThan(600 * 1024)
    }
  })
})
