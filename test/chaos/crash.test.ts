import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { LEASE_MS, SKEW_MS } from '../../domain/file-record.ts'
import { planParts } from '../../domain/ranges.ts'
import type { ObjectStore, StoredObject } from '../../drivers/store/store.ts'
import { checkEverything } from '../support/checker.ts'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, directStore, type Longshore, waitFor } from '../support/longshore.ts'
import { type Place, type Places, placesOf, storedPartBytes } from '../support/places.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'
import type { Json } from '../support/rest.ts'
import { startWorld, type World } from '../support/world.ts'

const KiB = 1024
const MiB = 1024 * KiB
const LARGE_BYTES = 96 * MiB
/** A connection, a listing and a few looks; packets' heads and tags. */
const OVERHEAD_BYTES = 256 * KiB
/** Three batches and more. */
const LISTED_FILES = 1_600
const LISTING_BYTES_A_SECOND = 32 * KiB
/** One part: the end of another one would renew the lease of its file too. */
const SERVED_BYTES = 16 * MiB
/** So that it would take a minute; it is let go when the API has been gone for longer than a lease. */
const SERVED_BYTES_A_SECOND = 256 * KiB
const KILLED = { code: null, signal: 'SIGKILL' }

/** When its process had been killed: what had come from the server, what was stored, and what the record said. */
interface Crash {
  place: Place
  received: number
  object: StoredObject | null
  partBytes: number
  status: string
}

let world: World
let backends: Backends
let longshore: Longshore
let consumer: Consumer
let store: ObjectStore
let places: Places
let slow: FaultyProxy | null = null
let announcedWithoutApi: string[] = []
/** When the API was gone, by this machine's clock, in ms. */
let apiKilledAt = 0

beforeAll(async () => {
  world = await startWorld()
  ;({ backends, longshore, consumer } = world)
  places = placesOf(backends, longshore)
  store = directStore(backends)
})
afterAll(async () => {
  await store?.close()
  await world?.stop()
  await places?.close()
  await slow?.close()
})

const processesOf = (service: string) => longshore.processes.filter(({ name }) => name === service)

/** A file for a process that kills itself when it passes a failpoint; resolves when it is gone. */
async function crashAt(place: Place, service: 'transfer' | 'notifier', failpoints: string): Promise<Crash> {
  const killed = await longshore.add(service, { FAILPOINTS: failpoints })
  expect(await killed.exited).toEqual(KILLED)
  return {
    place,
    received: place.proxy.received,
    object: await store.head(place.key),
    partBytes: await storedPartBytes(store, place.key),
    status: (await place.file()).status
  }
}

interface Listing {
  id: string
  /** Files that had a record when the scanner was killed. */
  known: number
}

/** A folder that comes so slowly that its scanner is killed in the middle of it; no other scanner runs after this. */
async function killedInListing(): Promise<Listing> {
  const root = join(backends.root, 'listed')
  await mkdir(root)
  for (let index = 0; index < LISTED_FILES; index++) await writeFile(join(root, String(index)), `file ${index}`)
  slow = await startProxy({ target: { host: '127.0.0.1', port: backends.sshd.port } })
  slow.throttle(LISTING_BYTES_A_SECOND)
  const policy = { roots: [root], interval: 3600, settle: { checks: 1, seconds: 0 } }
  const { id } = await longshore.api.post('/servers', backends.server({ name: 'listed', port: slow.port, ...policy }))
  const pending = async (): Promise<number> => (await longshore.api.get(`/stats?serverId=${id}`)).files.pending.count
  await waitFor(async () => (await pending()) > 0, { what: 'the first batch', everyMs: 20, explain: longshore.output })
  for (const one of processesOf('scanner')) await one.stop('SIGKILL')
  slow.throttle(null)
  return { id, known: await pending() }
}

/**
 * The API is killed while a part is under way, which does not end before the file's lease would have run out, and comes
 * back when that file and `files` others have been announced, and one that came meanwhile.
 */
async function withoutApi(served: Place, files: number): Promise<void> {
  const watched = join(backends.root, 'watched')
  await mkdir(watched)
  const policy = { roots: [watched], interval: 1, settle: { checks: 1, seconds: 0 } }
  await longshore.api.post('/servers', backends.server({ name: 'watched', ...policy }))
  await served.received(MiB)
  await processesOf('api')[0]!.stop('SIGKILL')
  apiKilledAt = Date.now()
  await longshore.add('scanner')
  await writeFile(join(watched, 'meanwhile'), 'nobody asked for it')
  await waitFor(() => Date.now() > apiKilledAt + LEASE_MS + SKEW_MS, { what: 'a lease to run out' })
  served.proxy.throttle(null)
  const announced = () => [...new Set(consumer.messages.map(({ event }) => event.data.serverName))]
  // The listed folder is one more.
  const isAll = () => announced().includes('watched') && announced().length === files + 3
  await waitFor(isAll, { what: 'all to be announced', explain: longshore.output })
  await expect(longshore.api.get('/stats')).rejects.toThrow('fetch failed')
  announcedWithoutApi = announced()
  await longshore.add('api')
  const isReady = async () => (await longshore.api.request('GET', '/health/ready')).status === 200
  await waitFor(isReady, { what: 'the API to be back', explain: longshore.output })
}

const TWICE = ['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified']

describe('a process that is killed', () => {
  let confirmed: Crash
  let stored: Crash
  let storedLarge: Crash
  let claimed: Crash
  let betweenParts: Crash
  let listed: Listing
  let served: Place

  // One after the other, so that each file meets its own process; what each waits for, a lease, they wait for together.
  beforeAll(async () => {
    for (const one of processesOf('notifier')) await one.stop()
    confirmed = await crashAt(await places.add('confirmed', 100 * KiB), 'notifier', 'after-confirm=crash')
    for (const one of processesOf('transfer')) await one.stop()
    stored = await crashAt(await places.add('stored', 100 * KiB), 'transfer', 'after-complete=crash')
    storedLarge = await crashAt(await places.add('stored-large', LARGE_BYTES), 'transfer', 'after-complete=crash')
    claimed = await crashAt(await places.add('claimed', 100 * KiB), 'transfer', 'after-claim=crash')
    betweenParts = await crashAt(await places.add('between-parts', LARGE_BYTES), 'transfer', 'between-parts=crash@2')
    served = await places.add('served', SERVED_BYTES, SERVED_BYTES_A_SECOND)
    await waitFor(() => served.file(), { what: 'its record', explain: longshore.output })
    listed = await killedInListing()
    await longshore.add('transfer')
    await longshore.add('notifier')
    const files = [confirmed, stored, storedLarge, claimed, betweenParts]
    await withoutApi(served, files.length)
    for (const { place } of files) await place.notified()
  })

  test('between the confirmation of a message and its record announces again under the same id', async () => {
    expect(confirmed.status).toBe('uploaded')
    const { id, notification } = await confirmed.place.file()
    const messages = () => consumer.messages.filter(({ event }) => event.data.fileId === id)
    await waitFor(() => messages().length === 2, { what: 'the second message' })
    expect(messages().map(({ messageId }) => messageId)).toEqual([notification.messageId, notification.messageId])
    expect(messages()[1]!.event).toEqual(messages()[0]!.event)
  })

  test.each([
    ['small', () => stored],
    ['large', () => storedLarge]
  ])('between the end of a %s upload and its record leaves an object that is taken for done', async (_size, of) => {
    const crash = of()
    const { file, key, proxy, sizeBytes, statuses } = crash.place
    expect(crash).toMatchObject({ status: 'downloading', object: { sizeBytes } })
    expect(await statuses()).toEqual(TWICE)
    // Neither read nor written again.
    expect(proxy.received - crash.received).toBeLessThan(sizeBytes / 2)
    expect(proxy.received - crash.received).toBeLessThan(OVERHEAD_BYTES)
    expect(await store.head(key)).toEqual(crash.object)
    expect((await file()).object.etag).toBe(crash.object!.etag)
  })

  test('right after its claim leaves a file that another one takes after the lease', async () => {
    const { file, statuses } = claimed.place
    expect(claimed).toMatchObject({ status: 'downloading', object: null })
    expect(await statuses()).toEqual(TWICE)
    const { attempts, history } = await file()
    expect(attempts).toBe(2)
    expect(history[3].worker).not.toBe(history[1].worker)
    const [taken, freed] = [1, 2].map((entry) => Date.parse(history[entry].at))
    expect(freed! - taken!).toBeGreaterThanOrEqual(LEASE_MS)
    expect(freed! - taken!).toBeLessThan(2 * LEASE_MS)
  })

  test('in the middle of a listing leaves it to another one, and each file has one record', async () => {
    expect(listed.known).toBeGreaterThan(0)
    expect(listed.known).toBeLessThan(LISTED_FILES)
    const notified = async () => (await longshore.api.get(`/stats?serverId=${listed.id}`)).files.notified.count
    await waitFor(async () => (await notified()) === LISTED_FILES, {
      what: 'all files of the listing',
      explain: longshore.output
    })
    expect(await longshore.api.files(`&serverId=${listed.id}`)).toHaveLength(LISTED_FILES)
    expect((await longshore.api.get(`/servers/${listed.id}`)).lastScan).toMatchObject({ listed: LISTED_FILES })
  })

  test('between two parts leaves those that are stored, and the next one reads the others only', async () => {
    const crash = betweenParts
    const { proxy, sizeBytes, statuses } = crash.place
    expect(crash).toMatchObject({ status: 'downloading', object: null })
    expect(crash.partBytes).toBeGreaterThan(0)
    expect(crash.partBytes).toBeLessThan(sizeBytes)
    expect(await statuses()).toEqual(TWICE)
    const missing = sizeBytes - crash.partBytes
    expect(proxy.received - crash.received).toBeGreaterThanOrEqual(missing)
    expect(proxy.received - crash.received).toBeLessThan(missing * 1.01 + OVERHEAD_BYTES)
  })

  test('and serves the API stops no copy', async () => {
    expect(announcedWithoutApi).toEqual(expect.arrayContaining(['served', 'watched']))
    expect(await served.statuses()).toEqual(['pending', 'downloading', 'uploaded', 'notified'])
    // All that kept its lease came after the end of the API: renewals, and no part that ended.
    expect(planParts(SERVED_BYTES, store.limits)).toMatchObject({ count: 1 })
    const { at } = (await served.file()).history.find(({ status }: Json) => status === 'uploaded')
    expect(Date.parse(at) - apiKilledAt).toBeGreaterThan(LEASE_MS)
    expect(served.proxy.received).toBeLessThan(SERVED_BYTES * 1.01 + OVERHEAD_BYTES)
  })

  test('leaves one object, one record and one id of a message for each file', async () => {
    expect(await checkEverything({ backends, longshore, consumer })).toMatchObject({ problems: [], duplicates: 1 })
  })
})
