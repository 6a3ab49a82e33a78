import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { STOP_MS } from '../../stop-budget.ts'
import { checkEverything } from '../support/checker.ts'
import { type Consumer, startConsumer } from '../support/consumer.ts'
import { type Backends, startBackends, waitFor } from '../support/longshore.ts'
import type { Json } from '../support/rest.ts'
import { writeSource } from '../support/source-files.ts'
import { type Fleet, type Member, startFleet } from './random/fleet.ts'

const MiB = 1024 * 1024
/** After so many parts of a file every lane of the connection has been opened, and a part that is begun is at the store at once. */
const LANES_OPEN_AFTER = 16

/** Resolves to the number once it has been the same for so long. */
async function unchanged(count: () => number, forMs: number): Promise<number> {
  for (let seen = count(); ; seen = count()) {
    await delay(forMs)
    if (count() === seen) return seen
  }
}

describe('SIGTERM', () => {
  let backends: Backends
  let consumer: Consumer
  let fleet: Fleet
  const sizes = new Map<string, number>()

  beforeAll(async () => {
    backends = await startBackends({ proxied: 'everything', sshd: { isCountingReads: true } })
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
    sizes.set(`${backends.root}/${path}`, sizeBytes)
  }
  const api = () => fleet.api(0)
  const terminate = async (member: Member) => {
    const { code, tookMs } = await fleet.end(member, 'SIGTERM', 0)
    if (code !== 0) throw new Error(`${member.name} ended with ${code} after ${tookMs} ms\n${fleet.output()}`)
    expect(tookMs).toBeLessThan(STOP_MS)
  }
  const explain = async () => `${JSON.stringify((await api().get('/stats')).files)}\n${fleet.output()}`
  const allNotified = () =>
    waitFor(async () => (await api().get('/stats')).files.notified.count === sizes.size, {
      what: `${sizes.size} files to be notified`,
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
  /** By the account of the SFTP server itself, which tells of a handle when it is closed. */
  const expectEveryByteReadOnce = async () => {
    let read = new Map<string, number>()
    const isTold = async () => {
      read = await backends.sshd.readBytes()
      return [...sizes].every(([path, sizeBytes]) => (read.get(path) ?? 0) >= sizeBytes)
    }
    await waitFor(isTold, { what: 'the server to tell of every read', explain })
    const again = [...sizes].flatMap(([path, sizeBytes]) => {
      const bytes = read.get(path)! - sizeBytes
      return bytes > 0 ? [`${path}: ${bytes} bytes`] : []
    })
    if (again.length > 0) throw new Error(`read again were\n${again.join('\n')}\n${fleet.output()}`)
  }
  const recordOf = async (name: string): Promise<Json> => {
    const [file] = await api().files(`&path=${encodeURIComponent(`${backends.root}/${name}`)}`)
    return file && api().get(`/files/${file.id}`)
  }

  /** Parts that were begun, by the store's account. */
  const partsBegun = () => backends.proxies!.s3.seen.byOperation.part ?? 0

  test('to the worker of a large file begins no part of it any more, and no part is read twice', async () => {
    backends.proxy!.throttle(32 * MiB)
    await put('handed-over', 640 * MiB)
    await waitFor(() => partsBegun() >= LANES_OPEN_AFTER, { what: 'the copy', everyMs: 20, explain })
    // Nothing of a part comes to its end meanwhile, so that all that is begun later is begun after the signal.
    backends.proxy!.blackhole()
    const begun = await unchanged(partsBegun, 1_000)
    const worker = (await recordOf('handed-over')).history.at(-1).worker
    const member = fleet.members.find(
      ({ group, process }) => group === 'transfer' && worker.includes(`-${process?.pid}/`)
    )
    const terminated = terminate(member!)
    await waitFor(() => /SIGTERM: finishing/.test(member!.process!.output()), {
      what: 'the worker to hear of it',
      everyMs: 10
    })
    backends.proxy!.restore()
    await terminated
    expect(partsBegun()).toBe(begun)
    backends.proxy!.throttle(null)
    await allNotified()
    await expectEveryByteReadOnce()
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
    backends.proxy!.throttle(24 * MiB)
    const isOver = new AbortController()
    const load = (async () => {
      for (let round = 0; !isOver.signal.aborted; round++) {
        await put(`rolling/${round}/large`, 48 * MiB)
        for (let index = 0; index < 20; index++) await put(`rolling/${round}/${index}`, index * 1009)
        await delay(3000, undefined, { signal: isOver.signal }).catch(() => undefined)
      }
    })()
    try {
      for (const member of fleet.members) {
        await terminate(member)
        await waitFor(() => member.process !== null, { what: `${member.name} to be back` })
        await fleet.ready()
      }
    } finally {
      isOver.abort()
      await load
    }
    backends.proxy!.throttle(null)
    await allNotified()
    await expectEveryByteReadOnce()
    expect(await check()).toMatchObject({ problems: [], files: sizes.size, duplicates: 0 })
    expect(fleet.ownEnds).toEqual([])
  })
})
