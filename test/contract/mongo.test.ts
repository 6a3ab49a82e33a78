import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals'
import { ServiceBroker } from 'moleculer'
import type { Collection } from '../../drivers/db/collection.ts'
import { openDatabase } from '../../drivers/db/connection.ts'
import type { Database } from '../../drivers/db/database.ts'
import { collectionMixin, type WithCollection } from '../../mixins/collection.mixin.ts'
import { type RunningMongo, startMongo } from '../support/mongo.ts'
import { freePort } from '../support/ports.ts'
import { collectionContract, type Thing, thingIndexes } from './collection.contract.ts'

async function openThings(database: Database, name = 'things'): Promise<Collection<Thing>> {
  const adapter = database.adapter(name)
  await adapter.connect()
  return database.collection<Thing>(adapter, thingIndexes)
}

collectionContract('MongoDB', async () => {
  const mongo = await startMongo()
  return {
    open: async (name) => {
      const database = await openDatabase({ mongoUrl: mongo.url, dataDir: 'unused' })
      return { collection: await openThings(database, name), close: () => database.close() }
    },
    stop: () => mongo.stop()
  }
})

/** Some seconds, and more on a slow machine. */
const SOON_MS = 20_000

/** A way to the server that can be cut (`refuse`), and silenced (`freeze`) without closing anything. */
class Way {
  #server: Server | undefined
  #sockets = new Set<Socket>()
  #isFrozen = false
  port = 0
  readonly target: URL

  constructor(target: URL) {
    this.target = target
  }

  async open(): Promise<void> {
    this.#isFrozen = false
    this.port ||= await freePort()
    this.#server = createServer((near) => {
      const far = connect(Number(this.target.port || 27017), this.target.hostname)
      for (const [from, to] of [
        [near, far],
        [far, near]
      ] as const) {
        this.#sockets.add(from)
        from.on('data', (data) => {
          if (!this.#isFrozen) to.write(data)
        })
        from.on('error', () => {})
        from.on('close', () => {
          this.#sockets.delete(from)
          to.destroy()
        })
      }
    })
    this.#server.listen(this.port, '127.0.0.1')
    await once(this.#server, 'listening')
  }

  freeze(): void {
    this.#isFrozen = true
  }

  async refuse(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (!server) return
    const closed = once(server, 'close')
    server.close()
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }
}

describe('the connection to MongoDB', () => {
  let mongo: RunningMongo
  const ways: Way[] = []
  const opened: Database[] = []

  beforeAll(async () => {
    mongo = await startMongo()
  })
  afterAll(async () => {
    await mongo?.stop()
  })
  afterEach(async () => {
    for (const database of opened.splice(0)) await database.close()
    for (const way of ways.splice(0)) await way.refuse()
  })

  async function open(mongoUrl: string): Promise<Database> {
    const database = await openDatabase({ mongoUrl, dataDir: 'unused' })
    opened.push(database)
    return database
  }

  async function throughWay(): Promise<{ way: Way; url: string }> {
    const target = new URL(mongo.url)
    const way = new Way(target)
    ways.push(way)
    await way.open()
    const url = new URL(mongo.url)
    url.hostname = '127.0.0.1'
    url.port = String(way.port)
    url.searchParams.set('directConnection', 'true')
    return { way, url: url.href }
  }

  async function eventually<T>(attempt: () => Promise<T>, withinMs = 120_000): Promise<T> {
    const end = performance.now() + withinMs
    for (;;) {
      try {
        return await attempt()
      } catch (error) {
        if (performance.now() > end) throw error
      }
      await new Promise(setImmediate)
    }
  }

  async function rejectsSoon(promise: Promise<unknown>): Promise<void> {
    const before = performance.now()
    await expect(promise).rejects.toMatchObject({ type: 'DATABASE_UNAVAILABLE' })
    expect(performance.now() - before).toBeLessThan(SOON_MS)
  }

  const one: Thing = { _id: '1', revision: 0, status: 'new' }

  test('every call rejects within 5 s while the database is down, and works again by itself when it is back', async () => {
    const { way, url } = await throughWay()
    const database = await open(url)
    const things = await openThings(database, 'down')
    expect(await things.insertNew([one])).toEqual(new Set(['1']))

    await way.refuse()
    await Promise.all(
      [
        things.ping(),
        database.ping(),
        things.find({}),
        things.findByIds(['1']),
        things.count({}),
        things.totals({}),
        things.insertNew([one]),
        things.replaceEach([{ from: one, to: { ...one, status: 'claimed' } }]),
        things.removeByIds(['2'])
      ].map(rejectsSoon)
    )

    await way.open()
    await eventually(() => things.ping())
    expect(await things.findByIds(['1'])).toEqual([one])
    expect(await things.replaceEach([{ from: one, to: { ...one, status: 'claimed' } }])).toEqual([true])
  })

  test('ping rejects within 5 s when the server went silent without closing its connections', async () => {
    const { way, url } = await throughWay()
    const things = await openThings(await open(url), 'silent')
    await things.insertNew([one])
    way.freeze()
    await rejectsSoon(things.ping())
    await way.refuse()
    await way.open()
    await eventually(() => things.ping())
  })

  test('opens while the database is down, and makes its indexes when it comes', async () => {
    const { way, url } = await throughWay()
    await way.refuse()
    const database = await open(url)
    const things = await openThings(database, 'late')
    await rejectsSoon(database.ping())
    await rejectsSoon(things.insertNew([one]))
    await rejectsSoon(things.find({}))

    await way.open()
    await eventually(() => things.ping())
    const inserted = await things.insertNew([
      { ...one, key: 'a' },
      { ...one, _id: '2', key: 'a' }
    ])
    expect(inserted.size).toBe(1)
  })

  test('closes while the database is down', async () => {
    const { way, url } = await throughWay()
    await way.refuse()
    const database = await openDatabase({ mongoUrl: url, dataDir: 'unused' })
    await openThings(database)
    const before = performance.now()
    await database.close()
    expect(performance.now() - before).toBeLessThan(SOON_MS)
  })

  test('an address that is none is INVALID, and does not repeat the password', async () => {
    const failure = await openDatabase({ mongoUrl: 'mongodb://user:se:cret@/x', dataDir: 'unused' }).catch((e) => e)
    expect(failure).toMatchObject({ type: 'INVALID' })
    expect(failure.message).not.toContain('cret')
  })

  test("one user's close leaves the others connected", async () => {
    const [first, second] = [await open(mongo.url), await open(mongo.url)]
    const [mine, theirs] = [await openThings(first, 'shared'), await openThings(second, 'shared')]
    await mine.insertNew([one])
    await first.close()
    expect(await theirs.count({})).toBe(1)
  })

  test('services with the mixin read by moleculer-db with operators, and one that stops leaves the other connected', async () => {
    const broker = new ServiceBroker({ logger: false })
    type Reading = WithCollection<Thing> & {
      _find: (ctx: unknown, params: object) => Promise<Thing[]>
      _list: (ctx: unknown, params: object) => Promise<unknown>
      _get: (ctx: unknown, params: object) => Promise<Thing>
      _count: (ctx: unknown, params: object) => Promise<number>
    }
    function schema(name: string): never {
      return {
        name,
        mixins: [collectionMixin({ name: 'mixed', indexes: thingIndexes })],
        methods: { openDatabase: () => openDatabase({ mongoUrl: mongo.url, dataDir: 'unused' }) },
        actions: {
          async put(this: Reading) {
            const documents = ['a', 'b', 'c'].map((_id, size) => ({ ...one, _id, size, detail: {} }))
            return (await this.collection.insertNew(documents)).size
          },
          find(this: Reading, ctx: { params: object }) {
            return this._find(null, ctx.params)
          },
          async rest(this: Reading) {
            const query = { status: 'new', $or: [{ size: { $gte: 1 } }, { size: { $in: [7] } }] }
            return {
              one: await this._get(null, { id: 'b' }),
              count: await this._count(null, { query }),
              list: await this._list(null, { query, sort: ['-size'], page: 1, pageSize: 1 })
            }
          }
        }
      } as never
    }
    broker.createService(schema('things'))
    const other = broker.createService(schema('others'))
    await broker.start()
    try {
      expect(await broker.call('things.put')).toBe(3)
      await broker.destroyService(other)
      expect(await broker.call('things.find', { query: { size: { $lte: 1 } }, sort: ['-size'] })).toEqual([
        { ...one, _id: 'b', size: 1, detail: {} },
        { ...one, _id: 'a', size: 0, detail: {} }
      ])
      expect(await broker.call('things.find', { query: { status: 'stored' } })).toEqual([])
      expect(await broker.call('things.rest')).toMatchObject({
        one: { _id: 'b', size: 1 },
        count: 2,
        list: { rows: [{ _id: 'c' }], total: 2, totalPages: 2 }
      })
    } finally {
      await broker.stop()
    }
  })
})

// A server that is only lent to the tests is not stopped by them.
const describeOwn = process.env.MONGO_TEST_URL ? describe.skip : describe
describeOwn('a MongoDB that is stopped', () => {
  test('has its documents when it is started again', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'longshore-mongo-'))
    let mongo = await startMongo({ dir })
    const database = await openDatabase({ mongoUrl: mongo.url, dataDir: 'unused' })
    try {
      const things = await openThings(database)
      await things.insertNew([{ _id: '1', revision: 0, status: 'new' }])
      await mongo.stop()
      await expect(things.ping()).rejects.toMatchObject({ type: 'DATABASE_UNAVAILABLE' })
      mongo = await startMongo({ dir, port: Number(new URL(mongo.url).port) })
      await expect(things.findByIds(['1'])).resolves.toHaveLength(1)
    } finally {
      await database.close()
      await mongo.stop()
      await rm(dir, { recursive: true, force: true })
    }
  })
})
