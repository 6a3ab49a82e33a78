import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import type { ObjectStore, StoredObject } from '../../drivers/store/store.ts'
import { checkEverything } from '../support/checker.ts'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, directStore, type Longshore, waitFor } from '../support/longshore.ts'
import { type Place, type Places, placesOf, storedPartBytes } from '../support/places.ts'
import { startWorld, type World } from '../support/world.ts'

const KiB = 1024
const MiB = 1024 * KiB
const LARGE_BYTES = 96 * MiB
/** A connection, a listing and a few looks; packets' heads and tags. */
const OVERHEAD_BYTES = 256 * KiB
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

const TWICE = ['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified']

describe('a process that is killed', () => {
  let confirmed: Crash
  let stored: Crash
  let storedLarge: Crash
  let claimed: Crash
  let betweenParts: Crash

  // One after the other, so that each file meets its own process; what each waits for, a lease, they wait for together.
  beforeAll(async () => {
    for (const one of processesOf('notifier')) await one.stop()
    confirmed = await crashAt(await places.add('confirmed', 100 * KiB), 'notifier', 'after-confirm=crash')
    for (const one of processesOf('transfer')) await one.stop()
    stored = await crashAt(await places.add('stored', 100 * KiB), 'transfer', 'after-complete=crash')
    storedLarge = await crashAt(await places.add('stored-large', LARGE_BYTES), 'transfer', 'after-complete=crash')
    claimed = await crashAt(await places.add('claimed', 100 * KiB), 'transfer', 'after-claim=crash')
    betweenParts = await crashAt(await places.add('between-parts', LARGE_BYTES), 'transfer', 'between-parts=crash@2')
    await longshore.add('transfer')
    await longshore.add('notifier')
    for (const { place } of [confirmed, stored, storedLarge, claimed, betweenParts]) await place.notified()
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
    const [api] = processesOf('api')
    const place = await places.add('served', LARGE_BYTES, 32 * MiB)
    await place.received(LARGE_BYTES / 8)
    await api!.stop('SIGKILL')
    expect(place.proxy.received).toBeLessThan(LARGE_BYTES)
    const isAnnounced = () => consumer.messages.some(({ event }) => event.data.serverName === 'served')
    await waitFor(isAnnounced, { what: 'its message', explain: longshore.output })
    await expect(longshore.api.get('/stats')).rejects.toThrow('fetch failed')
    await longshore.add('api')
    const isReady = async () => (await longshore.api.request('GET', '/health/ready')).status === 200
    await waitFor(isReady, { what: 'the API to be back', explain: longshore.output })
    expect(await place.statuses()).toEqual(['pending', 'downloading', 'uploaded', 'notified'])
    expect(place.proxy.received).toBeLessThan(LARGE_BYTES * 1.01 + OVERHEAD_BYTES)
  })

  test('leaves one object, one record and one id of a message for each file', async () => {
    expect(await checkEverything({ backends, longshore, consumer })).toMatchObject({ problems: [], duplicates: 1 })
  })
})
