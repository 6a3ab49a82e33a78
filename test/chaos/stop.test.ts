import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { checkEverything } from '../support/checker.ts'
import { type Consumer, startConsumer } from '../support/consumer.ts'
import { type Backends, startBackends, waitFor } from '../support/longshore.ts'
import type { Json } from '../support/rest.ts'
import { writeSource } from '../support/source-files.ts'
import { type Fleet, startFleet } from './random/fleet.ts'

const MiB = 1024 * 1024
const PART_BYTES = 16 * MiB
/** What `main.ts` gives itself before it ends by force. */
const DEADLINE_MS = 30_000

describe('SIGTERM', () => {
  let backends: Backends
  let consumer: Consumer
  let fleet: Fleet
  let written = 0
  let bytes = 0

  beforeAll(async () => {
    backends = await startBackends({ proxied: 'everything' })
    consumer = await startConsumer(backends.queue)
    fleet = await startFleet(backends)
    const policy = { roots: [backends.root], interval: 2, settle: { checks: 1, seconds: 0 }, maxConnections: 4 }
    await fleet.api(0).post('/servers', backends.server(policy))
  })
  afterAll(async () => {
    await fleet?.stop()
    await consumer?.close()
    await backends?.stop()
  })

  const put = async (path: string, sizeBytes: number) => {
    await writeSource(backends.root, path, sizeBytes)
    written++
    bytes += sizeBytes
  }
  const api = () => fleet.api(0)
  const explain = async () => `${JSON.stringify((await api().get('/stats')).files)}\n${fleet.output()}`
  const allNotified = () =>
    waitFor(async () => (await api().get('/stats')).files.notified.count === written, {
      what: `${written} files to be notified`,
      explain
    })
  const check = () =>
    checkEverything({
      backends,
      consumer,
      longshore: {
        api: api(),
        keys: fleet.keys,
        output: fleet.output,
        folders: fleet.folders,
        misconduct: fleet.ownEnds
      }
    })
  const recordOf = async (name: string): Promise<Json> => {
    const [file] = await api().files(`&path=${encodeURIComponent(`${backends.root}/${name}`)}`)
    return file && api().get(`/files/${file.id}`)
  }

  test('to the worker of a large file hands it over at the end of a part, and no part is read twice', async () => {
    const received = backends.proxy!.received
    backends.proxy!.throttle(16 * MiB)
    await put('handed-over', 400 * MiB)
    await waitFor(() => backends.proxy!.received > received + 80 * MiB, {
      what: 'the copy',
      explain
    })
    const worker = (await recordOf('handed-over')).history.at(-1).worker
    const member = fleet.members.find(
      ({ group, process }) => group === 'transfer' && worker.includes(`-${process?.pid}/`)
    )
    const { code, tookMs } = await fleet.end(member!, 'SIGTERM', 0)
    expect(code).toBe(0)
    expect(tookMs).toBeLessThan(DEADLINE_MS)
    backends.proxy!.throttle(null)
    await allNotified()
    expect(backends.proxy!.received - received).toBeLessThan(400 * MiB + PART_BYTES)
    const { history, attempts } = await recordOf('handed-over')
    expect(attempts).toBe(1)
    expect(history.map(({ status }: Json) => status)).toEqual([
      ...['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified']
    ])
    expect(history[2].reason).toBe('handed back at the end of a part')
    expect(history[3].worker).not.toBe(worker)
    expect((await check()).problems).toEqual([])
  })

  test('to every process in turn, under load, loses nothing, reads nothing twice and announces nothing twice', async () => {
    const received = backends.proxy!.received
    const before = bytes
    backends.proxy!.throttle(24 * MiB)
    const isOver = new AbortController()
    const load = (async () => {
      for (let round = 0; !isOver.signal.aborted; round++) {
        await put(`rolling/${round}/large`, 48 * MiB)
        for (let index = 0; index < 20; index++) await put(`rolling/${round}/${index}`, index * 1009)
        await delay(3000, undefined, { signal: isOver.signal }).catch(() => undefined)
      }
    })()
    for (const member of fleet.members) {
      const { code, tookMs } = await fleet.end(member, 'SIGTERM', 0)
      expect(`${member.name} ${code}`).toBe(`${member.name} 0`)
      expect(tookMs).toBeLessThan(DEADLINE_MS)
      await waitFor(() => member.process !== null, { what: `${member.name} to be back` })
      await fleet.ready()
    }
    isOver.abort()
    await load
    backends.proxy!.throttle(null)
    await allNotified()
    expect(backends.proxy!.received - received - (bytes - before)).toBeLessThan(PART_BYTES)
    expect(await check()).toMatchObject({ problems: [], files: written, duplicates: 0 })
    expect(fleet.ownEnds).toEqual([])
  })
})
