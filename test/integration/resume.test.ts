import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { checkEverything } from '../support/checker.ts'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, directStore, type Longshore, waitFor } from '../support/longshore.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'
import type { Json } from '../support/rest.ts'
import { writeSource } from '../support/source-files.ts'
import { startWorld, type World } from '../support/world.ts'

jest.setTimeout(600_000)

const MiB = 1024 * 1024
const PART_BYTES = 16 * MiB
/** Of each file. 1 GiB takes minutes more: RESUME_TEST_MIB=1024. */
const FILE_BYTES = Number(process.env.RESUME_TEST_MIB ?? 192) * MiB
/** Packets' heads and tags, handshakes, listings and looks: 0.2 % and some. */
const OVERHEAD_BYTES = FILE_BYTES / 200 + 2 * MiB
/** Of the slowest copy, while the fault is waited for. */
const SLOW_BYTES_A_SECOND = FILE_BYTES / 60
/** Of a copy that has got as far as it should. */
const WAITING_BYTES_A_SECOND = 256 * 1024
const SHARES = [0.1, 0.5, 0.9]

/** One registered server behind a proxy of its own, with one file. */
interface Place {
  share: number
  proxy: FaultyProxy
  path: string
  file: Json
}

let world: World
let backends: Backends
let longshore: Longshore
let consumer: Consumer
let store: ObjectStore
const proxies: FaultyProxy[] = []

beforeAll(async () => {
  world = await startWorld({ counts: { transfer: 1 } })
  ;({ backends, longshore, consumer } = world)
  store = directStore(backends)
})
afterAll(async () => {
  await store?.close()
  await world?.stop()
  for (const proxy of proxies) await proxy.close()
})

/** Lets a file of each share travel so slowly that the shares are reached at the same time. */
async function travelling(name: string, shares: number[]): Promise<Place[]> {
  const { host, port } = backends.sshd
  const places: Place[] = []
  for (const share of shares) {
    const folder = `${name}-${share * 100}`
    await writeSource(backends.root, `${folder}/large`, FILE_BYTES)
    const proxy = await startProxy({ target: { host, port } })
    proxies.push(proxy)
    proxy.throttle((SLOW_BYTES_A_SECOND * share) / SHARES[0]!)
    const root = join(backends.root, folder)
    const settle = { checks: 1, seconds: 0 }
    await longshore.api.post(
      '/servers',
      backends.server({ name: folder, port: proxy.port, roots: [root], interval: 3600, settle })
    )
    places.push({ share, proxy, path: join(root, 'large'), file: null })
  }
  const reached = places.map(async ({ proxy, share }) => {
    await waitFor(() => proxy.received >= share * FILE_BYTES, {
      timeoutMs: 240_000,
      what: `${share} of a file to be read`,
      everyMs: 20,
      explain: longshore.output
    })
    // It waits there for the others, however these are held up.
    proxy.throttle(WAITING_BYTES_A_SECOND)
  })
  await Promise.all(reached)
  for (const place of places) {
    const [file] = await longshore.api.files(`&path=${encodeURIComponent(place.path)}`)
    place.file = file
  }
  return places
}

const keyOf = ({ file }: Place) => `${file.serverName}${file.path}`

async function storedBytes(place: Place): Promise<number> {
  const key = keyOf(place)
  let bytes = 0
  for (const { uploadId } of await store.listUploads(key)) {
    for (const part of await store.listParts(key, uploadId)) bytes += part.sizeBytes
  }
  return bytes
}

async function nothingIsLeft(place: Place): Promise<void> {
  const isGone = async () => (await store.listUploads(keyOf(place))).length === 0
  await waitFor(isGone, { what: 'its upload to be gone', explain: longshore.output })
  expect(await store.head(keyOf(place))).toBeNull()
}

/** Ends well, and nothing was read again but what was on its way at the fault. */
async function endsWell(places: Place[], read: number[], stored: number[]): Promise<void> {
  for (const { proxy } of places) proxy.throttle(null)
  for (const [index, { share, proxy, file }] of places.entries()) {
    await waitFor(async () => (await longshore.api.get(`/files/${file.id}`)).status === 'notified', {
      timeoutMs: 180_000,
      what: `the file cut at ${share} to be notified`,
      everyMs: 500,
      explain: longshore.output
    })
    const again = proxy.received - FILE_BYTES
    const inFlight = read[index]! - stored[index]!
    console.log(`at ${share}: ${Math.round(again / MiB)} MiB read again, ${Math.round(inFlight / MiB)} MiB in flight`)
    expect(inFlight).toBeLessThan(8 * PART_BYTES + OVERHEAD_BYTES)
    expect(again).toBeLessThan(inFlight + OVERHEAD_BYTES)
    expect(again).toBeLessThan(8 * PART_BYTES + OVERHEAD_BYTES)
  }
}

describe('a large file', () => {
  test('goes on from its finished parts after its connection was cut at 10, 50 and 90 %', async () => {
    const places = await travelling('cut', SHARES)
    for (const { proxy } of places) proxy.cut()
    const read = places.map(({ proxy }) => proxy.received)
    const stored = await Promise.all(places.map(storedBytes))
    expect(stored[2]).toBeGreaterThanOrEqual(FILE_BYTES / 4)
    await endsWell(places, read, stored)
  })

  test('goes on in another process after its own was killed at 10, 50 and 90 %', async () => {
    const places = await travelling('killed', SHARES)
    const [transfer] = longshore.processes.filter(({ name }) => name === 'transfer')
    await transfer!.stop('SIGKILL')
    const read = places.map(({ proxy }) => proxy.received)
    const stored = await Promise.all(places.map(storedBytes))
    expect(stored[2]).toBeGreaterThanOrEqual(FILE_BYTES / 4)
    await longshore.add('transfer')
    await endsWell(places, read, stored)
  })

  test('is whole in each of these cases, and recorded and announced once', async () => {
    const report = await checkEverything({ backends, longshore, consumer })
    expect(report.problems).toEqual([])
  })

  test('is given up at once when it is cancelled, its upload aborted, and its connection left', async () => {
    const [place] = await travelling('cancelled', [0.1])
    expect(await store.listUploads(keyOf(place!))).toHaveLength(1)
    await longshore.api.post(`/files/${place!.file.id}/cancel`)
    const cancelled = { status: 'failed', error: { type: 'CANCELLED' } }
    expect(await longshore.api.get(`/files/${place!.file.id}`)).toMatchObject(cancelled)
    await nothingIsLeft(place!)
    // The copy ends within a second (drain-ends.test.ts); the connection is kept for another file for five more.
    await waitFor(() => place!.proxy.open === 0, { what: 'its connection to be left', everyMs: 20 })
    expect(place!.proxy.received).toBeLessThan(FILE_BYTES / 2)
  })

  test('leaves nothing in the store when its server is removed in the middle of it', async () => {
    const [place] = await travelling('removed', [0.1])
    expect(await store.listUploads(keyOf(place!))).toHaveLength(1)
    const removal = await longshore.api.request('DELETE', `/servers/${place!.file.serverId}?force=true`)
    expect(removal.status).toBe(204)
    await nothingIsLeft(place!)
  })
})
