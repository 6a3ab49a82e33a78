/** Servers removed with all that was stored of them, while processes are killed at the worst moments. */
import { rename } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import mongoose from 'mongoose'
import type { FileRecord } from '../../domain/file-record.ts'
import type { ServerRecord } from '../../domain/server.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { checkEverything } from '../support/checker.ts'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, directStore, type Longshore, waitFor } from '../support/longshore.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'
import { writeSource } from '../support/source-files.ts'
import { startWorld, type World } from '../support/world.ts'

const KiB = 1024
const MiB = 1024 * KiB
const KILLED = { code: null, signal: 'SIGKILL' }
/** Records are purged in pages of 200. */
const MORE_THAN_A_PAGE = 210

let world: World
let backends: Backends
let longshore: Longshore
let consumer: Consumer
let store: ObjectStore
let database: mongoose.Connection
/** In front of the SFTP server, for `alpha` alone. */
let proxy: FaultyProxy
/** By the name of the server. */
const partners: Record<string, { id: string; root: string }> = {}

beforeAll(async () => {
  world = await startWorld()
  ;({ backends, longshore, consumer } = world)
  store = directStore(backends)
  database = await mongoose.createConnection(backends.mongo.url).asPromise()
  proxy = await startProxy({ target: { host: '127.0.0.1', port: backends.sshd.port } })
  // The name of one begins as another's does, and so do their keys.
  const files = { alpha: 20, 'alpha-2': 20, beta: MORE_THAN_A_PAGE, gamma: MORE_THAN_A_PAGE }
  for (const [name, count] of Object.entries(files)) {
    partners[name] = await partner(name, count, name === 'alpha' ? proxy.port : backends.sshd.port)
  }
})
afterAll(async () => {
  await database?.close()
  await store?.close()
  await world?.stop()
  await proxy?.close()
})

const servers = () => database.collection<ServerRecord & { _id: string }>('servers')
const recordsOf = (serverId: string) =>
  database.collection<FileRecord & { _id: string }>('files').find({ serverId }).toArray()
const processOf = (service: string) => longshore.processes.filter(({ name }) => name === service).at(-1)!

/** A server with so many files, all of which are notified. */
async function partner(name: string, files: number, port: number): Promise<{ id: string; root: string }> {
  const root = join(backends.root, name)
  for (let index = 0; index < files; index++) await writeSource(root, `${index % 7}/${index}`, 1 + index * 13)
  const policy = { roots: [root], interval: 1, settle: { checks: 1, seconds: 0 } }
  const { id } = await longshore.api.post('/servers', backends.server({ name, port, ...policy }))
  const explain = async () => JSON.stringify(await longshore.api.get(`/stats?serverId=${id}`))
  await waitFor(async () => (await longshore.api.get(`/stats?serverId=${id}`)).files.notified.count === files, {
    what: `${files} files of ${name} to be notified`,
    explain: async () => `${await explain()}\n${longshore.output()}`
  })
  return { id, root }
}

/** Until the tombstone is there, whatever becomes of the call: those who answer it are killed. */
async function purge(id: string): Promise<void> {
  const isRemoved = async () => (await servers().findOne({ _id: id }))?.deletedAt
  await waitFor(
    async () => {
      await longshore.api.request('DELETE', `/servers/${id}?force=true&purge=true`).catch(() => undefined)
      return isRemoved()
    },
    { what: 'the tombstone', explain: longshore.output }
  )
}

/** Waits until neither the database nor the store has anything of the server left. */
async function gone(id: string, keys: string[]): Promise<void> {
  let left: unknown
  await waitFor(
    async () => {
      const there = await Promise.all(keys.map((key) => store.head(key)))
      const uploads = await Promise.all(keys.map((key) => store.listUploads(key)))
      const records = (await recordsOf(id)).map(({ path, status, reservedKey }) => ({ path, status, reservedKey }))
      left = { objects: there.filter(Boolean).length, uploads: uploads.flat().length, records }
      return records.length === 0 && there.every((one) => one === null) && uploads.flat().length === 0
    },
    { what: 'all of a purged server to be gone', explain: () => `${JSON.stringify(left)}\n${longshore.output()}` }
  )
}

const keysOf = async (id: string) => (await recordsOf(id)).flatMap(({ reservedKey }) => reservedKey ?? [])

describe('a server that is purged', () => {
  test('leaves nothing when `servers` is killed right after its tombstone, with a large file on its way', async () => {
    const { id, root } = partners.alpha!
    proxy.throttle(4 * MiB)
    // Whole at once.
    await writeSource(backends.root, 'draft', 80 * MiB)
    await rename(join(backends.root, 'draft'), join(root, 'large'))
    const large = await waitFor(
      async () => {
        const record = (await recordsOf(id)).find(({ path }) => path.endsWith('/large'))
        return record?.upload?.parts.length ? record : null
      },
      { what: 'a part of the large file', explain: longshore.output }
    )
    // It is not to be done with before the tombstone is there.
    proxy.throttle(128 * KiB)
    const keys = await keysOf(id)
    expect(keys).toHaveLength(21)
    await processOf('servers').stop()
    const killed = await longshore.add('servers', { FAILPOINTS: 'after-tombstone=crash' })
    await longshore.api.get('/servers')
    await purge(id)
    expect(await killed.exited).toEqual(KILLED)

    const tombstone = await servers().findOne({ _id: id })
    expect(tombstone).toMatchObject({ deletedAt: expect.any(Number), secrets: {}, removal: { purge: true, passes: 0 } })
    expect(await recordsOf(id)).toHaveLength(21)
    expect(await store.listUploads(large.reservedKey!)).toHaveLength(1)
    await longshore.add('servers')
    await gone(id, keys)
  })

  test('leaves nothing when `servers` is killed between two pages', async () => {
    const { id } = partners.beta!
    const keys = await keysOf(id)
    await processOf('storage').stop()
    // Longer than one goes on at a time: the rest is left to whoever asks again.
    await longshore.add('storage', { FAILPOINTS: 'between-purge-pages=pause:10000' })
    await isReady()
    const call = purge(id)
    await firstPageIsGone(id)
    await processOf('servers').stop('SIGKILL')
    await call
    await longshore.add('servers')
    await gone(id, keys)
  })

  test('leaves nothing when whoever purges is killed between two pages', async () => {
    const { id } = partners.gamma!
    const keys = await keysOf(id)
    await processOf('storage').stop()
    const killed = await longshore.add('storage', { FAILPOINTS: 'between-purge-pages=crash' })
    await isReady()
    const call = purge(id)
    expect(await killed.exited).toEqual(KILLED)
    await call
    await firstPageIsGone(id)
    await longshore.add('storage')
    await gone(id, keys)
  })

  test('takes nothing of another server with it, and its duty is found by an index of those that have one', async () => {
    await isReady()
    const served = new Set((await longshore.api.get('/servers')).items.map(({ id }: { id: string }) => id))
    const messages = consumer.messages.filter(({ event }) => served.has(event.data.serverId))
    expect(messages.length).toBeGreaterThan(19)
    const report = await checkEverything({ backends, longshore, consumer: { ...consumer, messages } })
    expect(report).toMatchObject({ problems: [], messages: 20 })
    const indexes = await servers().indexes()
    expect(indexes).toContainEqual(expect.objectContaining({ key: { 'removal.dueAt': 1 }, sparse: true }))
    // A server that is not removed has no such field, so that a sparse index leaves none of these out.
    const due = { 'removal.dueAt': { $lte: Number.MAX_SAFE_INTEGER } }
    expect(await servers().countDocuments(due)).toBe(3)
    expect(await servers().countDocuments()).toBe(4)
  })
})

async function isReady(): Promise<void> {
  const ready = async () =>
    (await longshore.api.request('GET', '/health/ready', undefined, { key: null })).status === 200
  await waitFor(ready, { what: 'all services to be there', explain: longshore.output })
}

/** Those of the other page are all there: the purge stands still between them, or is dead. */
async function firstPageIsGone(id: string): Promise<void> {
  await waitFor(async () => (await recordsOf(id)).length < MORE_THAN_A_PAGE, {
    what: 'a page to be purged',
    everyMs: 10,
    explain: longshore.output
  })
  expect(await recordsOf(id)).toHaveLength(MORE_THAN_A_PAGE - 200)
}
