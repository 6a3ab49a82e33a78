import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import { noTallies, SPANS, windowOf } from '../../domain/timeline.ts'
import type { Collection } from '../../drivers/db/collection.ts'
import { openDatabase } from '../../drivers/db/connection.ts'
import type { Database } from '../../drivers/db/database.ts'
import { Timeline, type TimelineRecord, timelineIndexes, watched } from '../../drivers/db/timeline.ts'
import { memoryCollection } from '../support/memory-collection.ts'
import { type RunningMongo, startMongo } from '../support/mongo.ts'

const at = Date.UTC(2030, 0, 2, 3, 4, 5)
const window = windowOf('minute', undefined, undefined, at)
const found = (size: number, serverId = 's1') => ({ serverId, size, updatedAt: at, status: 'pending' }) as FileRecord

/** The tallies of the minute of `at`. */
async function now(timeline: Timeline, serverId?: string) {
  return (await timeline.read(window, serverId)).at(-1)!.tallies
}

function timelineContract(name: string, start: () => Promise<{ open(): Promise<Database>; stop(): Promise<void> }>) {
  describe(`the timeline on ${name}`, () => {
    let driver: Awaited<ReturnType<typeof start>>
    let database: Database

    beforeAll(async () => {
      driver = await start()
      database = await driver.open()
    })
    afterAll(async () => {
      await database?.close()
      await driver?.stop()
    })

    async function buckets(collection: string = randomUUID()): Promise<Collection<TimelineRecord>> {
      const adapter = database.adapter(collection)
      await adapter.connect()
      return database.collection<TimelineRecord>(adapter, timelineIndexes)
    }

    test('adds up what was noted, of each server and of all', async () => {
      const timeline = new Timeline(await buckets(), 'w1')
      for (const [size, server] of [
        [10, 's1'],
        [20, 's1'],
        [5, 's2']
      ] as const)
        timeline.note(null, found(size, server))
      await timeline.flush()
      timeline.note(null, found(1))
      await timeline.flush()
      expect((await now(timeline)).found).toEqual({ count: 4, bytes: 36 })
      expect((await now(timeline, 's1')).found).toEqual({ count: 3, bytes: 31 })
      expect((await now(timeline, 's2')).found).toEqual({ count: 1, bytes: 5 })
      expect(await now(timeline, 's3')).toEqual(noTallies())
      for (const resolution of ['hour', 'day'] as const) {
        const read = await timeline.read(windowOf(resolution, undefined, undefined, at))
        expect(read.at(-1)!.tallies.found).toEqual({ count: 4, bytes: 36 })
      }
    })

    test('loses and doubles nothing when several writers fold into the same buckets at once', async () => {
      const collection = await buckets()
      const writers = Array.from({ length: 6 }, (_, index) => new Timeline(collection, `w${index}`))
      for (let round = 0; round < 10; round++) {
        for (const writer of writers) writer.note(null, found(3))
        await Promise.all(writers.map((writer) => writer.flush()))
      }
      expect((await now(writers[0]!)).found).toEqual({ count: 60, bytes: 180 })
    })

    test('adds a batch once though the answer to its write was lost', async () => {
      const collection = await buckets()
      let lost = 0
      const lossy: Collection<TimelineRecord> = {
        ...collection,
        async insertNew(documents) {
          const answer = await collection.insertNew(documents)
          if (documents.length > 0 && lost++ === 0) throw new IngestError('DATABASE_UNAVAILABLE', 'lost')
          return answer
        },
        async replaceEach(pairs) {
          const answer = await collection.replaceEach(pairs)
          if (pairs.length > 0 && lost++ === 1) throw new IngestError('DATABASE_UNAVAILABLE', 'lost')
          return answer
        }
      }
      const timeline = new Timeline(lossy, 'w1')
      timeline.note(null, found(7))
      await expect(timeline.flush()).rejects.toMatchObject({ type: 'DATABASE_UNAVAILABLE' })
      timeline.note(null, found(1))
      await expect(timeline.flush()).rejects.toMatchObject({ type: 'DATABASE_UNAVAILABLE' })
      timeline.note(null, found(2))
      await timeline.flush()
      expect(lost).toBeGreaterThan(2)
      expect((await now(timeline)).found).toEqual({ count: 3, bytes: 10 })
    })

    test('is there after a restart, and goes on', async () => {
      const name = randomUUID()
      const before = new Timeline(await buckets(name), 'w1')
      before.note(null, found(1))
      await before.flush()
      const after = new Timeline(await buckets(name), 'w2')
      after.note(null, found(2))
      await after.flush()
      expect((await now(after)).found).toEqual({ count: 2, bytes: 3 })
    })

    test('drops each bucket when its time is over, and no other', async () => {
      const collection = await buckets()
      const timeline = new Timeline(collection, 'w1')
      timeline.note(null, found(1))
      await timeline.flush()
      const left = async () => (await collection.find({}, { sort: { _id: 1 } })).map(({ series }) => series)
      expect(await timeline.prune(at)).toBe(0)
      expect(await timeline.prune(at + SPANS.minute.keptMs)).toBe(2)
      expect(await left()).toEqual(['day/', 'day/s1', 'hour/', 'hour/s1'])
      expect(await timeline.prune(at + SPANS.hour.keptMs)).toBe(2)
      expect(await timeline.prune(at + SPANS.day.keptMs)).toBe(2)
      expect(await left()).toEqual([])
    })

    test('reads whole windows, with zeros where nothing happened', async () => {
      const timeline = new Timeline(await buckets(), 'w1')
      const read = await timeline.read(windowOf('minute', at - 600_000, undefined, at))
      expect(read).toHaveLength(11)
      expect(read.every(({ tallies }) => tallies.found.count === 0)).toBe(true)
      expect(read[1]!.at - read[0]!.at).toBe(60_000)
    })
  })
}

timelineContract('NeDB', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'longshore-timeline-'))
  return {
    open: () => openDatabase({ mongoUrl: null, dataDir }),
    stop: () => rm(dataDir, { recursive: true, force: true })
  }
})

timelineContract('MongoDB', async () => {
  const mongo: RunningMongo = await startMongo()
  return { open: () => openDatabase({ mongoUrl: mongo.url, dataDir: 'unused' }), stop: () => mongo.stop() }
})

describe('a watched collection', () => {
  test('tells what was written, and not what was refused', async () => {
    const told: unknown[] = []
    const things = watched(memoryCollection<{ _id: string; revision: number; size: number }>(), (from, to) =>
      told.push([from?.size ?? null, to.size])
    )
    const first = { _id: '1', revision: 0, size: 1 }
    await things.insertNew([first, first])
    await things.insertNew([first])
    await things.replaceEach([
      { from: first, to: { ...first, size: 2 } },
      { from: { ...first, revision: 9 }, to: { ...first, size: 3 } }
    ])
    expect(told).toEqual([
      [null, 1],
      [1, 2]
    ])
  })
})
