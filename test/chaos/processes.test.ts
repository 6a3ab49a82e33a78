import { access } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { LEASE_MS, SKEW_MS } from '../../domain/file-record.ts'
import { SMALL_FILE_BYTES } from '../../domain/ranges.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { checkEverything } from '../support/checker.ts'
import type { Consumer } from '../support/consumer.ts'
import {
  type Backends,
  directStore,
  type Longshore,
  type LongshoreProcess,
  through,
  waitFor
} from '../support/longshore.ts'
import { type Place, type Places, placesOf, storedPartBytes } from '../support/places.ts'
import type { Json } from '../support/rest.ts'
import { startWorld, type World } from '../support/world.ts'

const MiB = 1024 * 1024
/** Packets' heads and tags, handshakes, a listing. */
const OVERHEAD_BYTES = 4 * MiB
/** The ranges of one connection that are on their way at once: four parts. */
const IN_FLIGHT_BYTES = 64 * MiB
/** What comes over a throttled connection before a worker that goes on has looked at its leases. */
const LETTING_GO_BYTES = 32 * MiB
/** Keepalives, and room granted for what still comes; at 2 MiB a second the requests of a copy are more within two seconds. */
const WITHOUT_READS_BYTES = 1024
/** How long a small file takes that is read to its end after 20 s, when a worker that could not renew has given it up. */
const SLOW_SECONDS = 25
/** A stop that is shorter than the 20 s after which a worker gives its files up by itself. */
const SHORT_MS = 10_000
/** Less than the quarter of an hour that S3 allows between a signature and its own clock. */
const MOVED_SECONDS = 600
const ONCE = ['pending', 'downloading', 'uploaded', 'notified']
const TWICE = ['pending', 'downloading', ...ONCE]

let world: World
let backends: Backends
let longshore: Longshore
let consumer: Consumer
let store: ObjectStore
let places: Places

beforeAll(async () => {
  world = await startWorld({ proxied: 'everything' })
  ;({ backends, longshore, consumer } = world)
  places = placesOf(backends, longshore)
  store = directStore(backends)
})
afterAll(async () => {
  for (const { pid } of longshore?.processes ?? []) signal(pid, 'SIGCONT')
  if (backends?.mongo.pid) signal(backends.mongo.pid, 'SIGCONT')
  await store?.close()
  await world?.stop()
  await places?.close()
})

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // It ended before.
  }
}

const workers = () => longshore.processes.filter(({ name }) => name === 'transfer')
const isOf = (worker: string, { pid }: LongshoreProcess) => worker.includes(`-${pid}/`)
const claimsOf = (file: Json): string[] =>
  file.history.filter(({ status }: Json) => status === 'downloading').map(({ worker }: Json) => worker)

/** A large file for a new worker alone; resolves when that one is in the middle of it. */
async function held(name: string, bytesPerSecond: number, env: Record<string, string> = {}) {
  const worker = await longshore.add('transfer', env)
  const place = await places.add(name, 160 * MiB, bytesPerSecond)
  await place.received(24 * MiB)
  expect(claimsOf(await place.file()).map((claim) => isOf(claim, worker))).toEqual([true])
  return { worker, place, mostBytes: 0 }
}

/** Resolves when the file has been claimed for so long. */
async function heldFor(place: Place, ms: number): Promise<void> {
  await until(Date.parse((await place.file()).history[1].at) + ms)
}

/** By this machine's clock, in ms. */
async function until(at: number): Promise<void> {
  await delay(Math.max(0, at - Date.now()))
}

/**
 * Resolves when nothing was read from the server for three seconds, to when the last of it was asked for: that still comes
 * for a while over a slow line.
 */
async function askedUntil({ proxy }: Place): Promise<number> {
  let seen = proxy.sent
  let at = Date.now()
  await waitFor(
    () => {
      if (proxy.sent > seen + WITHOUT_READS_BYTES) {
        seen = proxy.sent
        at = Date.now()
      }
      return Date.now() - at > 3_000
    },
    { what: 'the copy to stand still', explain: longshore.output }
  )
  return at
}

async function check() {
  expect((await checkEverything({ backends, longshore, consumer })).problems).toEqual([])
}

describe('a large file whose worker', () => {
  test('stands still for less than its lease is copied by that one to its end, and nothing is read again', async () => {
    const place = await places.add('short', 96 * MiB, 16 * MiB)
    await place.received(32 * MiB)
    // Its claim alone would not carry it to the end of the stop.
    place.proxy.throttle(MiB)
    await heldFor(place, LEASE_MS - SHORT_MS / 2)
    const [worker] = workers()
    signal(worker!.pid, 'SIGSTOP')
    await delay(SHORT_MS)
    signal(worker!.pid, 'SIGCONT')
    await heldFor(place, LEASE_MS + 2 * SKEW_MS)
    place.proxy.throttle(null)
    await place.notified()
    expect(await place.statuses()).toEqual(ONCE)
    expect(place.proxy.received).toBeLessThan(place.sizeBytes + OVERHEAD_BYTES)
  })

  describe('has a fault of its own for longer than its lease', () => {
    let frozen: Awaited<ReturnType<typeof held>>
    let parted: Awaited<ReturnType<typeof held>>
    let ahead: Awaited<ReturnType<typeof held>>
    let behind: LongshoreProcess

    // All at once, so that their leases run out together; each is in the middle of its file when the next one comes.
    beforeAll(async () => {
      for (const one of workers()) await one.stop()
      frozen = await held('frozen', 8 * MiB)
      signal(frozen.worker.pid, 'SIGSTOP')
      parted = await held('parted', 8 * MiB, { TRANSPORTER: through(backends.nats.url, backends.proxies!.nats[1]) })
      backends.proxies!.nats[1].blackhole()
      // It reads on until it gives up, and should leave something to the next one.
      parted.place.proxy.throttle(2 * MiB)
      ahead = await held('ahead', 8 * MiB, await movedClock(MOVED_SECONDS))
      ahead.place.proxy.throttle(2 * MiB)
      behind = await longshore.add('transfer', await movedClock(-MOVED_SECONDS))
      for (const one of [frozen, parted]) {
        const { place } = one
        await waitFor(async () => claimsOf(await place.file()).length === 2, {
          what: 'another worker to take the file',
          explain: longshore.output
        })
        const missingBytes = place.sizeBytes - (await storedPartBytes(store, place.key))
        one.mostBytes = place.proxy.received + missingBytes + LETTING_GO_BYTES
        place.proxy.throttle(8 * MiB)
        await place.received(place.proxy.received + 4 * MiB)
      }
      // While the others are in the middle of their files.
      signal(frozen.worker.pid, 'SIGCONT')
      backends.proxies!.nats[1].restore()
      for (const { place } of [frozen, parted]) await place.notified()
      await heldFor(ahead.place, LEASE_MS + 2 * SKEW_MS)
      ahead.place.proxy.throttle(null)
      await ahead.place.notified()
    })

    test.each([
      ['was stopped and went on', () => frozen],
      ['was parted from NATS', () => parted]
    ])('and %s: another one has taken over, and the late one lets go', async (_fault, of) => {
      const { place, worker, mostBytes } = of()
      const file = await place.file()
      const claims = claimsOf(file)
      expect(await place.statuses()).toEqual(TWICE)
      expect(claims.map((claim) => isOf(claim, worker))).toEqual([true, false])
      expect(file.history.find(({ status }: Json) => status === 'uploaded').worker).toBe(claims[1])
      expect(file.attempts).toBeLessThanOrEqual(2)
      // The late one would read its part to the end; it lets go at its next look instead.
      expect(place.proxy.received).toBeLessThan(mostBytes)
    })

    test('because its clock is minutes ahead, among others that are behind: it keeps its file, and they theirs', async () => {
      // The clocks were really others.
      expect(movedBySeconds(ahead.worker)).toBeGreaterThan(MOVED_SECONDS / 10)
      expect(movedBySeconds(behind)).toBeLessThan(-MOVED_SECONDS)
      const { place, worker } = ahead
      const file = await place.file()
      expect(await place.statuses()).toEqual(ONCE)
      expect(claimsOf(file).map((claim) => isOf(claim, worker))).toEqual([true])
      expect(Date.parse(file.history[2].at) - Date.parse(file.history[1].at)).toBeGreaterThan(LEASE_MS + SKEW_MS)
      expect(place.proxy.received).toBeLessThan(place.sizeBytes + OVERHEAD_BYTES)
    })

    test('leaves one object, one record and one message for each file', check)
  })
})

describe('the copies', () => {
  test('stop before their leases end while the database is silent, and go on from their parts', async () => {
    const place = await places.add('database', 192 * MiB, 16 * MiB)
    await place.received(48 * MiB)
    place.proxy.throttle(2 * MiB)
    // Its bytes are all there before its lease ends, but later than its worker may still store them.
    const small = await places.add('database-small', SMALL_FILE_BYTES, SMALL_FILE_BYTES / SLOW_SECONDS)
    await small.received(MiB / 2)
    const frozenAt = Date.now()
    signal(backends.mongo.pid!, 'SIGSTOP')
    expect((await askedUntil(place)) - frozenAt).toBeLessThan(LEASE_MS)
    await until(frozenAt + LEASE_MS + 2 * SKEW_MS)
    for (const { key } of [place, small]) expect(await store.head(key)).toBeNull()
    signal(backends.mongo.pid!, 'SIGCONT')
    place.proxy.throttle(null)
    small.proxy.throttle(null)
    for (const one of [place, small]) await one.notified()
    expect((await place.statuses()).slice(-3)).toEqual(['downloading', 'uploaded', 'notified'])
    expect(place.proxy.received).toBeLessThan(place.sizeBytes + IN_FLIGHT_BYTES + OVERHEAD_BYTES)
    await check()
  })

  test('go on through a NATS that is away for a while', async () => {
    const place = await places.add('network', 128 * MiB, 8 * MiB)
    await place.received(32 * MiB)
    await backends.nats.halt()
    await delay(SHORT_MS)
    await backends.nats.resume()
    place.proxy.throttle(null)
    await waitFor(() => consumer.messages.some(({ event }) => event.data.serverName === 'network'), {
      what: 'its message',
      explain: longshore.output
    })
    await place.notified()
    expect(place.proxy.received).toBeLessThan(place.sizeBytes + IN_FLIGHT_BYTES + OVERHEAD_BYTES)
    await check()
  })
})

/** How far the first time that a process logged is from now, which is later by how long it has run. */
function movedBySeconds({ output }: LongshoreProcess): number {
  const [, hours, minutes, seconds] = /\[(\d\d):(\d\d):(\d\d)\.\d+Z\]/.exec(output())!.map(Number)
  const day = 24 * 3600
  const moved = hours! * 3600 + minutes! * 60 + seconds! - ((Date.now() / 1000) % day)
  return moved - Math.round(moved / day) * day
}

/** The environment of a process whose clock is so many seconds ahead; timers run as ever. */
async function movedClock(seconds: number): Promise<Record<string, string>> {
  const folder = process.arch === 'arm64' ? 'aarch64-linux-gnu' : 'x86_64-linux-gnu'
  const library = `/usr/lib/${folder}/faketime/libfaketime.so.1`
  await access(library).catch(() => {
    throw new Error(`${library} is missing: install the Debian package faketime (apt-get install faketime)`)
  })
  const offset = seconds > 0 ? `+${seconds}` : String(seconds)
  return { LD_PRELOAD: library, FAKETIME: offset, FAKETIME_DONT_FAKE_MONOTONIC: '1' }
}
