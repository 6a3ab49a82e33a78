import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import * as machine from '../../domain/file.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import { alternativeKey, objectKey } from '../../domain/object-key.ts'
import type { Sighting } from '../../domain/readiness.ts'
import { FileRecords, fileIndexes } from '../../drivers/db/file-records.ts'
import type { Entry } from '../../drivers/sftp/sftp.ts'
import { KnownFiles, KnownServers } from '../../workers/known-files.ts'
import { scanServer } from '../../workers/scan.ts'
import { fakeSftp, type Node } from '../support/fake-sftp.ts'
import { memoryCollection } from '../support/memory-collection.ts'
import { scanPolicy } from '../support/scan-policy.ts'

const start = 1_700_000_000_000
const hour = 3_600_000

const sighting = (path: string, size = 1, skip: string | null = null): Sighting => ({ path, size, mtime: 1000, skip })

describe('KnownFiles', () => {
  type Step = { kind: 'see' | 'remember' | 'forget'; path: string; size: number }
  const steps = fc.array(
    fc.record<Step>({
      kind: fc.constantFrom('see', 'see', 'remember', 'forget'),
      path: fc.constantFrom('/a', '/b', '/c', '/d', '/e'),
      size: fc.integer({ min: 0, max: 1 })
    }),
    { maxLength: 30 }
  )

  test('scan after scan it knows what a set of sightings would', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(steps, fc.boolean()), { maxLength: 6 }), (scans) => {
        let files = new KnownFiles().result(true)
        let model = new Set<string>()
        for (const [all, complete] of scans) {
          const scan = new KnownFiles(files)
          const [seen, learned, forgotten] = [new Set<string>(), new Set<string>(), new Set<string>()]
          for (const { kind, path, size } of all) {
            const one = `${path} ${size}`
            if (kind === 'see') {
              expect(scan.has(sighting(path, size))).toBe(model.has(one) && !forgotten.has(one))
              seen.add(one)
            }
            if (kind === 'remember') {
              scan.remember(sighting(path, size))
              learned.add(one)
            }
            if (kind === 'forget') {
              scan.forget(sighting(path, size))
              forgotten.add(one)
            }
          }
          files = scan.result(complete)
          const kept = [...model].filter((one) => !complete || seen.has(one))
          model = new Set([...kept, ...learned].filter((one) => !forgotten.has(one)))
          expect(files.length).toBe(model.size)
        }
      })
    )
  })

  test('nothing is known any more after a registration whose end nobody saw', () => {
    const scan = new KnownFiles()
    scan.remember(sighting('/a'))
    expect(new KnownFiles(scan.result(true)).has(sighting('/a'))).toBe(true)
    scan.giveUp()
    expect(new KnownFiles(scan.result(true)).has(sighting('/a'))).toBe(false)
  })

  test('an unchanged folder takes no new memory', () => {
    const first = new KnownFiles()
    for (const path of ['/a', '/b']) first.remember(sighting(path))
    const files = first.result(true)
    const second = new KnownFiles(files)
    for (const path of ['/b', '/a', '/a']) expect(second.has(sighting(path))).toBe(true)
    expect(second.result(true)).toBe(files)
  })
})

describe('KnownServers', () => {
  const knowing = (count: number) => {
    const scan = new KnownFiles()
    for (let i = 0; i < count; i++) scan.remember(sighting(`/${i}`))
    return scan.result(true)
  }
  const open = (maxBytes = 1000) => new KnownServers({ maxBytes, reconcileMs: 6 * hour, random: () => 0.5 })
  const first = { serverId: 's', generation: 1, scanEpoch: 7 }
  const isKnown = (servers: KnownServers, scanned: typeof first, now = start) =>
    servers.begin(scanned, now).has(sighting('/0'))

  test('the next scan of the same generation knows what the one before did', () => {
    const servers = open()
    servers.end(first, knowing(1), start)
    expect(isKnown(servers, { ...first, scanEpoch: 8 })).toBe(true)
  })

  test.each([
    ['another scanner has scanned in between', { ...first, scanEpoch: 9 }, start],
    ['the generation has moved', { ...first, scanEpoch: 8, generation: 2 }, start],
    ['it is time to ask about everything again', { ...first, scanEpoch: 8 }, start + 6 * hour],
    ['it is another server', { ...first, serverId: 't', scanEpoch: 8 }, start]
  ])('nothing is known when %s', (_, scanned, now) => {
    const servers = open()
    servers.end(first, knowing(1), start)
    expect(isKnown(servers, scanned, now)).toBe(false)
  })

  test('a scan that could not connect costs nothing of what is known, but one of another scanner before it does', () => {
    const servers = open()
    servers.end(first, knowing(1), start)
    servers.pass({ ...first, scanEpoch: 8 })
    expect(isKnown(servers, { ...first, scanEpoch: 9 })).toBe(true)
    servers.pass({ ...first, scanEpoch: 10 })
    expect(isKnown(servers, { ...first, scanEpoch: 11 })).toBe(false)
  })

  test('everything is asked about again however often the server is scanned', () => {
    const servers = open()
    let asked = 0
    for (let scan = 1; scan <= 10 * 60; scan++) {
      const scanned = { ...first, scanEpoch: scan }
      const at = start + scan * 60_000
      const known = servers.begin(scanned, at)
      if (!known.has(sighting('/0'))) {
        asked++
        known.remember(sighting('/0'))
      }
      servers.end(scanned, known.result(true), at)
    }
    expect(asked).toBe(2)
  })

  test('a scan that lost its lease does not overwrite what its successor knows', () => {
    const servers = open()
    servers.end({ ...first, scanEpoch: 8 }, knowing(1), start)
    servers.end(first, knowing(0), start)
    expect(isKnown(servers, { ...first, scanEpoch: 9 })).toBe(true)
  })

  test('the servers that were scanned longest ago are forgotten first, and the limit holds', () => {
    const servers = open(100 * 8)
    for (const serverId of ['a', 'b', 'c']) servers.end({ ...first, serverId }, knowing(30), start)
    servers.end({ ...first, serverId: 'a', scanEpoch: 8 }, knowing(30), start)
    servers.end({ ...first, serverId: 'd' }, knowing(30), start)
    expect(servers.bytes).toBeLessThanOrEqual(100 * 8)
    const known = (serverId: string, scanEpoch: number) => isKnown(servers, { ...first, serverId, scanEpoch })
    expect([known('a', 9), known('b', 8), known('c', 8), known('d', 8)]).toEqual([true, false, true, true])
  })

  test('a server that is larger than the limit drives no other one out', () => {
    const servers = open(100 * 8)
    servers.end(first, knowing(50), start)
    servers.end({ ...first, serverId: 'huge' }, knowing(101), start)
    expect(isKnown(servers, { ...first, serverId: 'huge', scanEpoch: 8 })).toBe(false)
    expect(isKnown(servers, { ...first, scanEpoch: 8 })).toBe(true)
    expect(servers.bytes).toBe(50 * 8)
  })
})

/** Records and scanners of one server, over a tree that two such worlds share. */
function world(sftp: ReturnType<typeof fakeSftp>, settle: { checks: number; seconds: number }) {
  const files = memoryCollection<FileRecord>(fileIndexes)
  const records = new FileRecords(files, { keyOf: objectKey, otherKeyOf: alternativeKey })
  const asked: string[] = []
  return {
    files,
    records,
    asked,
    async scan(
      onChange: 'ignore' | 'version',
      emptyFiles: 'take' | 'skip',
      scanEpoch: number,
      now: number,
      known?: KnownFiles
    ) {
      const rules = { serverId: 's1', serverName: 'acme', settle, onChange, scanEpoch }
      return scanServer(
        sftp.sftp,
        { ...scanPolicy, onChange, settle, emptyFiles },
        {
          known,
          register: (sightings) => {
            asked.push(...sightings.map(({ path }) => path))
            return records.register(rules, sightings, now)
          },
          unstored: (after) => records.unstored('s1', scanEpoch, after),
          vanished: async (ids) => {
            await records.changeEach(
              ids.map((id) => ({ id })),
              (file) => machine.vanish(file, now)
            )
          },
          now: () => now,
          signal: new AbortController().signal
        }
      )
    },
    /** A worker takes what is pending as far as it gets with the files as they are now. */
    async transfer(now: number) {
      const held = await records.claim('s1', 'w', 1000, now)
      await records.changeEach(
        held.map((file) => ({ id: file._id, epoch: file.epoch })),
        (file, { epoch }) => {
          const node = sftp.nodes.get(file.path)
          if (node?.kind !== 'file') return machine.finish(file, epoch, { kind: 'vanished' }, now, 0)
          const { size = 0, mtime = 1 } = node
          if (size !== file.size || mtime * 1000 !== file.mtime) {
            return machine.finish(file, epoch, { kind: 'changed', size, mtime: mtime * 1000 }, now, 0)
          }
          const checksum = { algorithm: 'crc32' as const, value: '00000000' }
          const object = { bucket: 'b', key: file.reservedKey!, url: 'u', etag: 'e', size, checksum }
          return machine.finish(file, epoch, { kind: 'stored', object, messageId: file._id }, now, 0)
        }
      )
    },
    /** Opens stored records again, as an operator does. */
    async reopen(path: string, now: number) {
      const stored = (await files.find({ path, status: 'uploaded' })).map(({ _id }) => ({ id: _id }))
      await records.changeEach(stored, (file) => ({
        ...file,
        status: 'pending',
        object: null,
        dueAt: now,
        epoch: file.epoch + 1
      }))
    },
    async all() {
      return files.find({}, { sort: { path: 1, version: 1 } })
    }
  }
}

describe('scans with a memory', () => {
  const file: Node = { kind: 'file', size: 1 }
  const paths = fc.constantFrom('/a', '/b', '/in/c', '/in/d', '/in/deep/e', '/文')
  const step = fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({ do: fc.constant('put' as const), path: paths, size: fc.nat(2), mtime: fc.nat(1) })
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('remove' as const), path: paths }) },
    { weight: 8, arbitrary: fc.record({ do: fc.constant('scan' as const), by: fc.constantFrom(0, 0, 0, 1) }) },
    { weight: 4, arbitrary: fc.record({ do: fc.constant('transfer' as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('reopen' as const), path: paths }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('policy' as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('lose' as const), by: fc.constantFrom(0, 1) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('cut' as const), path: fc.constantFrom('/in', '/in/deep') }) }
  )

  test.each([
    { checks: 1, seconds: 0 },
    { checks: 2, seconds: 90 }
  ])(
    'make the same records as scans without one, whatever happens and whenever it is lost (settle %o)',
    async (settle) => {
      let spared = 0
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 80 }), async (steps) => {
          const tree = fakeSftp({ '/in/deep/e': file, '/in/c': file, '/a': file, '/b': file })
          const [plain, knowing] = [world(tree, settle), world(tree, settle)]
          const open = () => new KnownServers({ maxBytes: 1e6, reconcileMs: 40 * 60_000 })
          const scanners = [open(), open()]
          let [now, scanEpoch, generation] = [start, 0, 1]
          let onChange: 'ignore' | 'version' = 'version'
          let emptyFiles: 'take' | 'skip' = 'skip'
          for (const one of steps) {
            now += 60_000
            if (one.do === 'put') tree.nodes.set(one.path, { kind: 'file', size: one.size, mtime: one.mtime })
            if (one.do === 'remove') tree.nodes.delete(one.path)
            if (one.do === 'cut') {
              const denied = Object.assign(new Error('denied'), { type: 'SFTP_PERMISSION_DENIED' })
              const folder = tree.nodes.get(one.path) as { error?: unknown } | undefined
              tree.nodes.set(one.path, { kind: 'folder', ...(folder?.error ? {} : { error: denied as never }) })
            }
            if (one.do === 'policy') {
              onChange = onChange === 'version' ? 'ignore' : 'version'
              emptyFiles = generation % 2 ? 'take' : 'skip'
              generation++
            }
            if (one.do === 'lose') scanners[one.by] = open()
            if (one.do === 'transfer') for (const side of [plain, knowing]) await side.transfer(now)
            if (one.do === 'reopen') {
              for (const side of [plain, knowing]) await side.reopen(one.path, now)
              generation++
            }
            if (one.do !== 'scan') continue
            const scanned = { serverId: 's1', generation, scanEpoch: ++scanEpoch }
            await plain.scan(onChange, emptyFiles, scanEpoch, now)
            const known = scanners[one.by]!.begin(scanned, now)
            const { summary } = await knowing.scan(onChange, emptyFiles, scanEpoch, now, known)
            scanners[one.by]!.end(scanned, known.result(summary.complete), now)
            expect(await knowing.all()).toEqual(await plain.all())
          }
          spared += plain.asked.length - knowing.asked.length
        }),
        { numRuns: 150 }
      )
      // The test would show nothing if the memory were never of use.
      expect(spared).toBeGreaterThan(500)
    }
  )

  test('a name that a listing has twice, with other sizes, leaves nothing wrong behind', async () => {
    const tree = fakeSftp({ '/a': { kind: 'file', size: 1 } })
    const side = world(tree, { checks: 1, seconds: 0 })
    const servers = new KnownServers({ maxBytes: 1e6, reconcileMs: hour })
    let scanEpoch = 0
    const scan = async () => {
      const scanned = { serverId: 's1', generation: 1, scanEpoch: ++scanEpoch }
      const known = servers.begin(scanned, start)
      const { summary } = await side.scan('version', 'take', scanEpoch, start, known)
      servers.end(scanned, known.result(summary.complete), start)
    }
    await scan()
    await side.transfer(start)
    await scan()
    const { list } = tree.sftp
    const entries: Entry[] = []
    for await (const page of list('/')) entries.push(...page)
    const [entry] = entries
    for (const pages of [
      [[entry!], [{ ...entry!, sizeBytes: 2 }]],
      [[{ ...entry!, sizeBytes: 3 }], [entry!]]
    ]) {
      tree.sftp.list = async function* () {
        yield* pages
      }
      await scan()
      side.asked.length = 0
      tree.sftp.list = list
      await scan()
      // What was known of it before is asked about again: its record has changed.
      expect(side.asked).toEqual(['/a'])
    }
  })

  test('what is stored is not asked about again, and what waits is', async () => {
    const tree = fakeSftp({ '/a': { kind: 'file', size: 1 }, '/b': { kind: 'file', size: 0 } })
    const side = world(tree, { checks: 1, seconds: 0 })
    const servers = new KnownServers({ maxBytes: 1e6, reconcileMs: hour })
    const scan = async (scanEpoch: number) => {
      side.asked.length = 0
      const scanned = { serverId: 's1', generation: 1, scanEpoch }
      const known = servers.begin(scanned, start)
      await side.scan('ignore', 'skip', scanEpoch, start, known)
      servers.end(scanned, known.result(true), start)
      return [...side.asked]
    }
    expect(await scan(1)).toEqual(['/a', '/b'])
    expect(await scan(2)).toEqual(['/a', '/b'])
    await side.transfer(start)
    expect(await scan(3)).toEqual(['/a'])
    expect(await scan(4)).toEqual([])
    tree.nodes.set('/c', { kind: 'file', size: 1 })
    tree.nodes.set('/a', { kind: 'file', size: 9 })
    expect(await scan(5)).toEqual(['/a', '/c'])
  })
})
