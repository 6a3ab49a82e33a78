import { setImmediate as yielded } from 'node:timers/promises'
import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import * as machine from '../../domain/file.ts'
import { type FileRecord, fileId, LEASE_MS, SKEW_MS } from '../../domain/file-record.ts'
import { alternativeKey, objectKey } from '../../domain/object-key.ts'
import type { Sighting } from '../../domain/readiness.ts'
import type { SightingRules } from '../../domain/sighting.ts'
import { FileRecords, fileIndexes } from '../../drivers/db/file-records.ts'
import { memoryCollection } from '../support/memory-collection.ts'

const start = 1_700_000_000_000
const rules: SightingRules = {
  serverId: 's1',
  serverName: 'acme',
  settle: { checks: 1, seconds: 0 },
  onChange: 'version',
  scanEpoch: 1
}
const object = {
  bucket: 'b',
  url: 'u',
  etag: 'e',
  size: 1,
  checksum: { algorithm: 'crc32' as const, value: '00000000' }
}

function open() {
  const files = memoryCollection<FileRecord>(fileIndexes)
  return { files, records: new FileRecords(files, { keyOf: objectKey, otherKeyOf: alternativeKey }) }
}

const sighting = (path: string, more: Partial<Sighting> = {}): Sighting => ({
  path,
  size: 1,
  mtime: 1000,
  skip: null,
  ...more
})
const many = (count: number) => Array.from({ length: count }, (_, i) => sighting(`/in/${i}`))

/** Takes everything that is pending to `uploaded`. */
async function storeAll({ files, records }: ReturnType<typeof open>, now = start): Promise<void> {
  const held = await records.claim('s1', 'w', 1000, now)
  await records.changeEach(
    held.map((file) => ({ id: file._id, epoch: file.epoch })),
    (file, { epoch }) => {
      const stored = { ...object, key: file.reservedKey! }
      return machine.finish(file, epoch, { kind: 'stored', object: stored, messageId: file._id }, now, 0)
    }
  )
  expect(await files.count({ status: 'downloading' })).toBe(0)
}

describe('register', () => {
  test('sightings in any order, in any batches, from many scanners at once make one record of each file version', async () => {
    const paths = fc.uniqueArray(fc.constantFrom('/a', '/b', '/b@2', '/c\n', '/d/../e', '/文'), { minLength: 1 })
    const reports = fc.array(fc.tuple(paths, fc.integer({ min: 1, max: 3 })), { minLength: 2, maxLength: 12 })
    await fc.assert(
      fc.asyncProperty(reports, async (all) => {
        const { files, records } = open()
        const registered = await Promise.all(
          all.map(([paths]) =>
            records.register(
              rules,
              paths.map((path) => sighting(path)),
              start
            )
          )
        )
        const expected = new Set(all.flatMap(([paths]) => paths))
        const stored = await files.find({})
        expect(stored.map(({ path }) => path).sort()).toEqual([...expected].sort())
        expect(stored.every(({ version, status }) => version === 1 && status === 'pending')).toBe(true)
        expect(registered.reduce((sum, counts) => sum + counts.new, 0)).toBe(expected.size)
      }),
      { numRuns: 60 }
    )
  })

  test('a change that many scanners see at once makes one next version', async () => {
    const world = open()
    await world.records.register(rules, [sighting('/a')], start)
    for (let version = 2; version <= 5; version++) {
      await storeAll(world)
      const changed = sighting('/a', { size: version })
      await Promise.all(
        Array.from({ length: 20 }, () => world.records.register({ ...rules, scanEpoch: version }, [changed], start))
      )
      const versions = (await world.files.find({ path: '/a' }, { sort: { version: 1 } })).map((file) => file.version)
      expect(versions).toEqual(Array.from({ length: version }, (_, i) => i + 1))
      const [first] = await world.files.findByIds([fileId('s1', '/a', 1)])
      expect(first!.latest).toBe(version)
    }
  })

  test('a pointer to the latest version that a crash left behind is mended, and no version is made twice', async () => {
    const world = open()
    await world.records.register(rules, [sighting('/a')], start)
    await storeAll(world)
    await world.records.register(rules, [sighting('/a', { size: 2 })], start)
    await storeAll(world)
    const [first] = await world.files.findByIds([fileId('s1', '/a', 1)])
    await world.files.replaceEach([{ from: first!, to: { ...first!, latest: 1 } }])

    await world.records.register(rules, [sighting('/a', { size: 3 })], start)
    const found = await world.files.find({ path: '/a' }, { sort: { version: 1 } })
    expect(found.map(({ version, size, latest }) => [version, size, latest])).toEqual([
      [1, 1, 3],
      [2, 2, 2],
      [3, 3, 3]
    ])
  })

  test('nothing that the policy takes is lost, whatever is reported beside it', async () => {
    const { files, records } = open()
    const odd = [sighting('/skipped', { skip: 'empty' }), sighting('/twice'), sighting('/twice', { size: 2 })]
    const counts = await records.register(rules, [...many(100), ...odd], start)
    expect(counts).toMatchObject({ new: 102, settling: 0, pending: 101, skipped: 1 })
    expect(await files.count({ status: 'pending' })).toBe(101)
    expect(await files.find({ path: '/twice' })).toMatchObject([{ size: 2 }])
  })

  test('the same listing again changes nothing and counts nothing', async () => {
    const { files, records } = open()
    await records.register(rules, many(20), start)
    const before = await files.find({})
    expect(await records.register({ ...rules, scanEpoch: 2 }, many(20), start + 60_000)).toEqual({
      new: 0,
      settling: 0,
      pending: 0,
      skipped: 0,
      atRest: [],
      disturbed: []
    })
    expect(await files.find({})).toEqual(before)
  })

  test('it is said which files are at rest, and which were until now', async () => {
    const world = open()
    const all = [sighting('/stored'), sighting('/skipped', { skip: 'empty' }), sighting('/waits'), sighting('/stored')]
    const first = await world.records.register(rules, [all[0]!, all[1]!], start)
    expect(first).toMatchObject({ atRest: [], disturbed: [] })
    await storeAll(world)
    const second = await world.records.register({ ...rules, scanEpoch: 2 }, all, start)
    expect(second).toMatchObject({ new: 1, disturbed: [] })
    expect(second.atRest.sort()).toEqual([1, 3])

    const changed = [sighting('/stored', { size: 2 }), sighting('/skipped'), sighting('/waits', { size: 2 })]
    const third = await world.records.register({ ...rules, scanEpoch: 3 }, changed, start)
    expect(third.atRest).toEqual([])
    expect(third.disturbed.sort((a, b) => (a.path < b.path ? 1 : -1))).toEqual(all.slice(0, 2))
    // What an older scan says is not to be relied on.
    await storeAll(world)
    expect((await world.records.register({ ...rules, scanEpoch: 2 }, changed, start)).atRest).toEqual([])
  })

  test('what waits and was not touched by a scan is listed in pages that one message carries', async () => {
    const { records } = open()
    const long = Array.from({ length: 900 }, (_, i) => sighting(`/${'x'.repeat(1000)}${i}`))
    await records.register(rules, long, start)
    await records.register({ ...rules, scanEpoch: 2 }, [sighting('/seen')], start)
    const paths: string[] = []
    for (let after = ''; ; ) {
      const page = await records.unstored('s1', 2, after)
      expect(Buffer.byteLength(JSON.stringify(page))).toBeLessThan(600 * 1024)
      if (page.length === 0) break
      paths.push(...page.map(({ path }) => path))
      after = page.at(-1)!.id
    }
    expect(paths.sort()).toEqual(long.map(({ path }) => path).sort())
  })

  test('the database refuses a second record of a version, whatever its id', async () => {
    const { files, records } = open()
    await records.register(rules, [sighting('/a')], start)
    const [file] = await files.find({})
    expect(await files.insertNew([{ ...file!, _id: 'another' }])).toEqual(new Set())
  })
})

describe('the order of claims', () => {
  const files = [
    sighting('/in/b', { size: 30, mtime: 3000 }),
    sighting('/in/sub/a', { size: 20, mtime: 2000 }),
    sighting('/in/c', { size: 10, mtime: 1000 })
  ]
  const claimed = async (records: FileRecords, limit = 10, now = start) =>
    (await records.claim('s1', 'w', limit, now)).map(({ filename }) => filename)

  test.each([
    [undefined, ['c', 'a', 'b']],
    ['oldest' as const, ['c', 'a', 'b']],
    ['smallest' as const, ['c', 'a', 'b']],
    ['name' as const, ['a', 'b', 'c']]
  ])('is %s first', async (order, expected) => {
    const { records } = open()
    await records.register(
      { ...rules, order },
      order === 'smallest' ? files.map((one) => ({ ...one, mtime: 1 })) : files,
      start
    )
    expect([...(await claimed(records, 1)), ...(await claimed(records, 2))]).toEqual(expected)
  })

  test('follows a changed policy at the next sighting', async () => {
    const { records } = open()
    await records.register({ ...rules, order: 'name' }, files, start)
    await records.register({ ...rules, order: 'oldest' }, files, start)
    expect(await claimed(records)).toEqual(['c', 'a', 'b'])
  })

  test('takes files that are tried again when their time has come, before those that were never tried', async () => {
    const { records } = open()
    await records.register(rules, files, start)
    const [first] = await records.claim('s1', 'w', 1, start)
    const error = { type: 'STALLED', message: 'no byte', at: start }
    const held = [{ id: first!._id }]
    const deferred = { kind: 'deferred' as const, error, waitMs: 5000 }
    await records.changeEach(held, (file) => machine.finish(file, file.epoch, deferred, start, 0))
    expect(await claimed(records, 1, start + 4999)).toEqual(['a'])
    expect(await claimed(records, 1, start + 5000)).toEqual(['c'])
    expect(await claimed(records, 1, start + 5000)).toEqual(['b'])
  })

  test('a record without a turn, of an older version, is given one', async () => {
    const { records, files: collection } = open()
    await records.register(rules, files, start)
    const [old] = await collection.find({ filename: 'b' })
    const { turn: _, ...without } = old!
    await collection.replaceEach([{ from: old!, to: without as FileRecord }])
    expect(await records.giveTurns()).toBe(1)
    expect(await claimed(records, 1)).toEqual(['b'])
    expect(await records.giveTurns()).toBe(0)
  })
})

describe('claim', () => {
  test('50 workers at once get each file once', async () => {
    const { records } = open()
    await records.register(rules, many(300), start)
    const claimed: FileRecord[] = []
    async function work(worker: string): Promise<void> {
      for (;;) {
        const files = await records.claim('s1', worker, 7, start)
        claimed.push(...files)
        if (files.length === 0 && (await records.serversWithWork('', 1, start)).length === 0) return
        await yielded()
      }
    }
    await Promise.all(Array.from({ length: 50 }, (_, i) => work(`w${i}`)))
    expect(claimed.length).toBe(300)
    expect(new Set(claimed.map(({ _id }) => _id)).size).toBe(300)
    expect(claimed.every(({ epoch, attempts, revision }) => epoch === 1 && attempts === 1 && revision === 1)).toBe(true)
  })

  test('what is not due, or of another server, is left', async () => {
    const { records } = open()
    await records.register(rules, many(3), start + 10)
    expect(await records.claim('s1', 'w', 10, start)).toEqual([])
    expect(await records.claim('s2', 'w', 10, start + 10)).toEqual([])
    expect((await records.claim('s1', 'w', 2, start + 10)).length).toBe(2)
  })

  test('of files that want one key, one gets it and the others get `~<id>`', async () => {
    const world = open()
    await world.records.register(rules, [sighting('/a')], start)
    await storeAll(world)
    await world.records.register({ ...rules, scanEpoch: 2 }, [sighting('/a', { size: 2 }), sighting('/a@2')], start)
    const twin = { ...rules, serverId: 's2', scanEpoch: 2 }
    await world.records.register(twin, [sighting('/a@2')], start)
    const claimed = [
      ...(await world.records.claim('s1', 'w', 10, start)),
      ...(await world.records.claim('s2', 'w', 10, start))
    ]
    const plain = claimed.filter(({ reservedKey }) => reservedKey === 'acme/a@2')
    expect(claimed.length).toBe(3)
    expect(plain.length).toBe(1)
    for (const file of claimed) {
      if (file !== plain[0]) expect(file.reservedKey).toBe(`acme/a@2~${file._id}`)
    }
  })

  test('keys follow the given template, and files that it leaves on one key still get one each', async () => {
    const { records } = open()
    await records.register(rules, [sighting('/in/a'), sighting('/out/a')], start)
    const claimed = await records.claim('s1', 'w', 10, start, 'all/{server}/{filename}')
    const keys = claimed.map(({ reservedKey }) => reservedKey)
    expect(keys).toContain('all/acme/a')
    expect(keys).toContainEqual(expect.stringMatching(/^all\/acme\/a~[\w-]{24}$/))
  })

  test('leases that ran out are free again, once, and their old workers are fenced', async () => {
    const { files, records } = open()
    await records.register(rules, many(5), start)
    const held = await records.claim('s1', 'w', 10, start)
    expect(await records.rescue(start + LEASE_MS)).toEqual({ serverIds: [], dropped: [] })
    const late = start + LEASE_MS + SKEW_MS
    const rescued = await Promise.all([records.rescue(late), records.rescue(late)])
    expect(rescued.flatMap(({ serverIds }) => serverIds)).toEqual(Array.from({ length: 5 }, () => 's1'))
    const changed = await records.changeEach(
      held.map(({ _id, epoch }) => ({ id: _id, epoch })),
      (file, { epoch }) => machine.finish(file, epoch, { kind: 'vanished' }, late, 0)
    )
    expect(changed).toEqual([])
    expect(await files.count({ status: 'pending' })).toBe(5)
  })
})

describe('looks, announcements and removal', () => {
  test('a due look and a due announcement go to one caller each', async () => {
    const world = open()
    await world.records.register({ ...rules, settle: { checks: 2, seconds: 30 } }, many(20), start)
    expect(await world.records.claimLooks(100, start + 29_999)).toEqual([])
    const looks = await Promise.all(Array.from({ length: 5 }, () => world.records.claimLooks(100, start + 30_000)))
    expect(
      looks
        .flat()
        .flatMap(({ paths }) => paths)
        .sort()
    ).toEqual(
      many(20)
        .map(({ path }) => path)
        .sort()
    )

    const other = open()
    await other.records.register(rules, many(20), start)
    await storeAll(other)
    const due = await Promise.all(Array.from({ length: 5 }, () => other.records.claimAnnouncements(100, start)))
    expect(
      due
        .flat()
        .map(({ _id }) => _id)
        .sort()
    ).toEqual((await other.files.find({})).map(({ _id }) => _id).sort())
  })

  test('a removed server keeps what is stored, and nothing else goes on', async () => {
    const world = open()
    await world.records.register(rules, many(3), start)
    await storeAll(world)
    await world.records.register(rules, [sighting('/late'), sighting('/held')], start)
    await world.records.claim('s1', 'w', 1, start)
    expect(await world.records.abandon('s1', start)).toMatchObject({ abandoned: 2 })
    expect(await world.files.totals({})).toMatchObject({ uploaded: { count: 3 }, skipped: { count: 2 } })
    await world.records.register({ ...rules, scanEpoch: 99 }, [sighting('/late'), sighting('/held')], start)
    expect(await world.files.totals({})).toMatchObject({ uploaded: { count: 3 }, skipped: { count: 2 } })
    expect(await world.records.claimAnnouncements(10, start)).toHaveLength(3)
  })

  test('servers with work are found in the order of their ids', async () => {
    const { records } = open()
    for (const serverId of ['s3', 's1', 's2']) await records.register({ ...rules, serverId }, many(3), start)
    expect(await records.serversWithWork('', 2, start)).toEqual(['s1', 's2'])
    expect(await records.serversWithWork('s2', 2, start)).toEqual(['s3'])
    expect(await records.serversWithWork('', 9, start - 1)).toEqual([])
    expect(await records.withWork(['s3', 'none', 's1', 's2'], 2, start)).toEqual(['s3', 's1'])
  })

  test('every failed file is retried, page by page', async () => {
    const { files, records } = open()
    await records.register(rules, many(1200), start)
    const held = await records.claim('s1', 'w', 2000, start)
    const error = { type: 'STALLED', message: 'stalled', at: start }
    await records.changeEach(
      held.map(({ _id, epoch }) => ({ id: _id, epoch })),
      (file, { epoch }) => machine.finish(file, epoch, { kind: 'rejected', error }, start, 0)
    )
    expect(await files.count({ status: 'failed' })).toBe(1200)
    expect(await records.retryFailed('s2', start)).toBe(0)
    expect(await records.retryFailed(undefined, start)).toBe(1200)
    expect(await files.count({ status: 'pending' })).toBe(1200)
  })

  test('only what still waits vanishes by its path', async () => {
    const world = open()
    await world.records.register(rules, [sighting('/stored')], start)
    await storeAll(world)
    await world.records.register(rules, [sighting('/waits')], start)
    await world.records.vanishedPaths('s1', ['/stored', '/waits', '/unknown'], start)
    expect((await world.files.find({ status: 'vanished' })).map(({ path }) => path)).toEqual(['/waits'])
    expect((await world.records.unstored('s1', 9, '')).length).toBe(0)
  })
})

describe('page', () => {
  test('pages together are the whole list, newest first, while new files come in', async () => {
    const times = fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 30 })
    await fc.assert(
      fc.asyncProperty(times, fc.integer({ min: 1, max: 7 }), async (created, limit) => {
        const { files, records } = open()
        for (const [i, at] of created.entries()) await records.register(rules, [sighting(`/${i}`)], start + at)
        const expected = await files.find({}, { sort: { createdAt: -1, _id: -1 } })
        const seen: string[] = []
        let cursor: string | undefined
        for (let inserts = 0; ; inserts++) {
          const page = await records.page({ limit, cursor })
          expect(page.items.length).toBeLessThanOrEqual(limit)
          expect(page.items.every((item) => !('history' in item))).toBe(true)
          seen.push(...page.items.map(({ _id }) => _id))
          if (!page.nextCursor) break
          cursor = page.nextCursor
          await records.register(rules, [sighting(`/new${inserts}`)], start + 100 + inserts)
        }
        expect(seen).toEqual(expected.map(({ _id }) => _id))
      }),
      { numRuns: 40 }
    )
  })

  test('filters by server, state and time', async () => {
    const { records } = open()
    await records.register(rules, [sighting('/a'), sighting('/b', { skip: 'empty' })], start)
    await records.register({ ...rules, serverId: 's2' }, [sighting('/c')], start + 10)
    const paths = async (filter: object) =>
      (await records.page({ limit: 10, ...filter })).items.map(({ path }) => path).sort()
    expect(await paths({})).toEqual(['/a', '/b', '/c'])
    expect(await paths({ serverId: 's1' })).toEqual(['/a', '/b'])
    expect(await paths({ statuses: ['pending'] })).toEqual(['/a', '/c'])
    expect(await paths({ since: start + 10 })).toEqual(['/c'])
    expect(await paths({ until: start + 10 })).toEqual(['/a', '/b'])
  })

  const names = [
    '/in/a.csv',
    '/in/b (1).csv',
    '/in/\uff71.csv',
    '/in/🚢.csv',
    '/in/x\ny.csv',
    '/in.txt',
    '/out/a.csv',
    '/in/$^.c'
  ]
  test.each([
    ['/in/', ['/in/a.csv', '/in/b (1).csv', '/in/\uff71.csv', '/in/🚢.csv', '/in/x\ny.csv', '/in/$^.c']],
    ['/in', names.filter((name) => name.startsWith('/in'))],
    ['/in/b (1', ['/in/b (1).csv']],
    ['/in/$^', ['/in/$^.c']],
    ['*.csv', names.filter((name) => name.endsWith('.csv'))],
    ['/in/?.csv', ['/in/a.csv', '/in/\uff71.csv']],
    ['*a.c*', ['/in/a.csv', '/out/a.csv']],
    ['/*/*.c*v', names.filter((name) => name.endsWith('.csv'))],
    ['/in/x*y*', ['/in/x\ny.csv']],
    ['*', names],
    ['/in/*.c', ['/in/$^.c']]
  ])('the path %j finds by prefix or glob', async (path, expected) => {
    const { records } = open()
    await records.register(
      rules,
      names.map((name) => sighting(name)),
      start
    )
    const { items } = await records.page({ limit: 100, path })
    expect(items.map((item) => item.path).sort()).toEqual([...expected].sort())
  })

  test('a hostile glob over hostile names is quick', async () => {
    const { records } = open()
    await records.register(rules, [sighting(`/${'a'.repeat(4000)}`)], start)
    const before = performance.now()
    for (const path of ['*a*a*a*a*a*a*a*b', '*?*?*?*?*?*?*?*b']) {
      expect((await records.page({ limit: 10, path })).items).toEqual([])
    }
    expect(performance.now() - before).toBeLessThan(1000)
    await expect(records.page({ limit: 10, path: '*a*a*a*a*a*a*a*a*b' })).rejects.toMatchObject({ type: 'INVALID' })
  })

  test.each(['', 'x', 'bm90IGEgY3Vyc29y', Buffer.from('1:{"$gt":""}').toString('base64url')])(
    'a cursor %j that is not of a page is refused or ignored when empty',
    async (cursor) => {
      const page = open().records.page({ limit: 1, cursor })
      if (cursor === '') await page
      else await expect(page).rejects.toMatchObject({ type: 'INVALID' })
    }
  )
})

describe('stats', () => {
  test('counts every state, the backlog and its age', async () => {
    const world = open()
    await world.records.register(rules, [sighting('/a', { size: 5 })], start)
    await storeAll(world)
    await world.records.register(
      rules,
      [sighting('/b', { size: 7 }), sighting('/c', { skip: 'empty', size: 0 })],
      start
    )
    expect(await world.records.stats(undefined, start + 10_000)).toMatchObject({
      files: { uploaded: { count: 1, bytes: 5 }, pending: { count: 1, bytes: 7 }, failed: { count: 0, bytes: 0 } },
      backlog: { count: 1, bytes: 7, oldestSeconds: 10 },
      announcements: { due: 1 }
    })
    expect(await world.records.stats('s2', start)).toMatchObject({ backlog: { count: 0, bytes: 0, oldestSeconds: 0 } })
  })
})

describe('steps after the upload', () => {
  test('are due once announced, each for one worker, and only where the policy asks for them', async () => {
    const world = open()
    await world.records.register({ ...rules, clears: true }, [sighting('/a'), sighting('/b')], start)
    await world.records.register({ ...rules, clears: false }, [sighting('/kept')], start)
    await storeAll(world)
    expect(await world.records.claimAfterUploads(10, start)).toEqual([])
    const due = await world.records.claimAnnouncements(10, start)
    await world.records.changeEach(
      due.map(({ _id }) => ({ id: _id })),
      (file) => machine.announced(file, file.announcement!.epoch, start)
    )
    const taken = await Promise.all(Array.from({ length: 5 }, () => world.records.claimAfterUploads(10, start)))
    expect(
      taken
        .flat()
        .map(({ path }) => path)
        .sort()
    ).toEqual(['/a', '/b'])
    const lost = await world.records.claimAfterUploads(10, start + 35_000)
    expect(lost.map(({ afterUpload }) => afterUpload!.epoch)).toEqual([2, 2])
    await world.records.changeEach(
      lost.map(({ _id, afterUpload }) => ({ id: _id, epoch: afterUpload!.epoch })),
      (file, { epoch }) => machine.endAfterUpload(file, epoch, { kind: 'deleted' }, start, 0)
    )
    expect(await world.records.claimAfterUploads(10, start + 999_999)).toEqual([])
    const counts = await world.records.register(rules, [sighting('/a'), sighting('/kept')], start)
    expect(counts.new).toBe(1)
  })
})
