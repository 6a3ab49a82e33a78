import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals'
import { s3Store } from '../../drivers/store/s3.ts'
import type { ObjectStore, StoredObject } from '../../drivers/store/store.ts'
import { checkEverything } from '../support/checker.ts'
import { type Consumer, startConsumer } from '../support/consumer.ts'
import { type Backends, type Longshore, startBackends, startLongshore, waitFor } from '../support/longshore.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'
import type { Json } from '../support/rest.ts'
import { writeSource } from '../support/source-files.ts'

jest.setTimeout(300_000)

const KiB = 1024
const MiB = 1024 * KiB
const LARGE_BYTES = 96 * MiB
/** A connection, a listing and a few looks; packets' heads and tags. */
const OVERHEAD_BYTES = 256 * KiB
const KILLED = { code: null, signal: 'SIGKILL' }

/** One registered server behind a proxy of its own, with one file. */
interface Place {
  proxy: FaultyProxy
  file(): Promise<Json>
  key: string
  sizeBytes: number
  /** When its process had been killed: what had come from the server, what was stored, and what the record said. */
  crash: { received: number; object: StoredObject | null; partBytes: number; status: string }
}

let backends: Backends
let longshore: Longshore
let consumer: Consumer
let store: ObjectStore
const proxies: FaultyProxy[] = []

beforeAll(async () => {
  backends = await startBackends()
  consumer = await startConsumer(backends.queue)
  longshore = await startLongshore({ backends })
  const { endpoint, accessKey, secretKey } = backends.minio
  store = s3Store({ endpoint, accessKey, secretKey, bucket: backends.bucket })
})
afterAll(async () => {
  await store?.close()
  await longshore?.stop()
  for (const proxy of proxies) await proxy.close()
  await consumer?.close()
  await backends?.stop()
})

async function newPlace(name: string, sizeBytes: number): Promise<Place> {
  const root = join(backends.root, name)
  await writeSource(root, 'file', sizeBytes)
  const proxy = await startProxy({ target: { host: '127.0.0.1', port: backends.sshd.port } })
  proxies.push(proxy)
  const policy = { roots: [root], interval: 3600, settle: { checks: 1, seconds: 0 } }
  await longshore.api.post('/servers', backends.server({ name, port: proxy.port, ...policy }))
  const file = async () => {
    const [found] = await longshore.api.files(`&path=${encodeURIComponent(`${root}/file`)}`)
    return found && longshore.api.get(`/files/${found.id}`)
  }
  const crash = { received: 0, object: null, partBytes: 0, status: '' }
  return { proxy, file, key: `${name}${root}/file`, sizeBytes, crash }
}

const processesOf = (service: string) => longshore.processes.filter(({ name }) => name === service)

async function storedPartBytes(key: string): Promise<number> {
  let bytes = 0
  for (const { uploadId } of await store.listUploads(key)) {
    for (const { sizeBytes } of await store.listParts(key, uploadId)) bytes += sizeBytes
  }
  return bytes
}

/** A new file for a process that kills itself when it passes a failpoint; resolves when it is gone. */
async function crashAt(place: Place, service: 'transfer' | 'notifier', failpoints: string): Promise<Place> {
  const killed = await longshore.add(service, { FAILPOINTS: failpoints })
  expect(await killed.exited).toEqual(KILLED)
  place.crash = {
    received: place.proxy.received,
    object: await store.head(place.key),
    partBytes: await storedPartBytes(place.key),
    status: (await place.file()).status
  }
  return place
}

const notified = (place: Place) =>
  waitFor(async () => (await place.file()).status === 'notified', {
    timeoutMs: 120_000,
    what: `${place.key} to be notified`,
    explain: async () => `${JSON.stringify(await place.file())}\n${longshore.output()}`
  })

const statusesOf = async (place: Place) => (await place.file()).history.map(({ status }: Json) => status)
const TWICE = ['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified']

describe('a process that is killed', () => {
  let confirmed: Place
  let stored: Place
  let storedLarge: Place
  let claimed: Place
  let betweenParts: Place

  // One after the other, so that each file meets its own process; what each waits for, a lease, they wait for together.
  beforeAll(async () => {
    for (const one of processesOf('notifier')) await one.stop()
    confirmed = await crashAt(await newPlace('confirmed', 100 * KiB), 'notifier', 'after-confirm=crash')
    for (const one of processesOf('transfer')) await one.stop()
    stored = await crashAt(await newPlace('stored', 100 * KiB), 'transfer', 'after-complete=crash')
    storedLarge = await crashAt(await newPlace('stored-large', LARGE_BYTES), 'transfer', 'after-complete=crash')
    claimed = await crashAt(await newPlace('claimed', 100 * KiB), 'transfer', 'after-claim=crash')
    betweenParts = await crashAt(await newPlace('between-parts', LARGE_BYTES), 'transfer', 'between-parts=crash@2')
    await longshore.add('transfer')
    await longshore.add('notifier')
    for (const place of [confirmed, stored, storedLarge, claimed, betweenParts]) await notified(place)
  })

  test('between the confirmation of a message and its record announces again under the same id', async () => {
    expect(confirmed.crash.status).toBe('uploaded')
    const { id, notification } = await confirmed.file()
    const messages = () => consumer.messages.filter(({ event }) => event.data.fileId === id)
    await waitFor(() => messages().length === 2, { timeoutMs: 10_000, what: 'the second message' })
    expect(messages().map(({ messageId }) => messageId)).toEqual([notification.messageId, notification.messageId])
    expect(messages()[1]!.event).toEqual(messages()[0]!.event)
  })

  test.each([
    ['small', () => stored],
    ['large', () => storedLarge]
  ])('between the end of a %s upload and its record leaves an object that is taken for done', async (_size, of) => {
    const { crash, file, key, proxy, sizeBytes } = of()
    expect(crash).toMatchObject({ status: 'downloading', object: { sizeBytes } })
    expect(await statusesOf(of())).toEqual(TWICE)
    // Neither read nor written again.
    expect(proxy.received - crash.received).toBeLessThan(sizeBytes / 2)
    expect(proxy.received - crash.received).toBeLessThan(OVERHEAD_BYTES)
    expect(await store.head(key)).toEqual(crash.object)
    expect((await file()).object.etag).toBe(crash.object!.etag)
  })

  test('right after its claim leaves a file that another one takes after the lease', async () => {
    const { crash, file } = claimed
    expect(crash).toMatchObject({ status: 'downloading', object: null })
    expect(await statusesOf(claimed)).toEqual(TWICE)
    const { attempts, history } = await file()
    expect(attempts).toBe(2)
    expect(history[3].worker).not.toBe(history[1].worker)
  })

  test('between two parts leaves those that are stored, and the next one reads the others only', async () => {
    const { crash, proxy, sizeBytes } = betweenParts
    expect(crash).toMatchObject({ status: 'downloading', object: null })
    expect(crash.partBytes).toBeGreaterThan(0)
    expect(crash.partBytes).toBeLessThan(sizeBytes)
    expect(await statusesOf(betweenParts)).toEqual(TWICE)
    const missing = sizeBytes - crash.partBytes
    expect(proxy.received - crash.received).toBeGreaterThanOrEqual(missing)
    expect(proxy.received - crash.received).toBeLessThan(missing * 1.01 + OVERHEAD_BYTES)
  })

  test('and serves the API stops no copy', async () => {
    const [api] = processesOf('api')
    const place = await newPlace('served', LARGE_BYTES)
    place.proxy.throttle(32 * MiB)
    await waitFor(() => place.proxy.received > LARGE_BYTES / 8, { timeoutMs: 30_000, what: 'the copy', everyMs: 5 })
    await api!.stop('SIGKILL')
    expect(place.proxy.received).toBeLessThan(LARGE_BYTES)
    const isAnnounced = () => consumer.messages.some(({ event }) => event.data.serverName === 'served')
    await waitFor(isAnnounced, { timeoutMs: 60_000, what: 'its message', explain: longshore.output })
    await expect(longshore.api.get('/stats')).rejects.toThrow('fetch failed')
    await longshore.add('api')
    const isReady = async () => (await longshore.api.request('GET', '/health/ready')).status === 200
    await waitFor(isReady, { timeoutMs: 30_000, what: 'the API to be back', explain: longshore.output })
    expect(await statusesOf(place)).toEqual(['pending', 'downloading', 'uploaded', 'notified'])
    expect(place.proxy.received).toBeLessThan(LARGE_BYTES * 1.01 + OVERHEAD_BYTES)
  })

  test('leaves one object, one record and one id of a message for each file', async () => {
    expect(await checkEverything({ backends, longshore, consumer })).toMatchObject({ problems: [], duplicates: 1 })
  })
})
