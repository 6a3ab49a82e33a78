import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { checkEverything } from '../support/checker.ts'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, type Longshore, waitFor } from '../support/longshore.ts'
import { writeSource } from '../support/source-files.ts'
import { startWorld, type World } from '../support/world.ts'

const MiB = 1024 * 1024
const LARGE_BYTES = 200 * MiB
/** Once, and again the parts in flight: four of 16 MiB. From the beginning again would be more than 320 MiB. */
const MOST_READ_BYTES = 300 * MiB

describe('two scanners, transfers, notifiers and files', () => {
  let world: World
  let backends: Backends
  let longshore: Longshore
  let consumer: Consumer
  let count = 0

  beforeAll(async () => {
    world = await startWorld({ proxied: true, counts: { scanner: 2, transfer: 2, notifier: 2, files: 2 } })
    ;({ backends, longshore, consumer } = world)
    const server = backends.server({
      roots: [backends.root],
      interval: 1,
      settle: { checks: 1, seconds: 0 },
      maxConnections: 4
    })
    await longshore.api.post('/servers', server)
  })
  afterAll(() => world?.stop())

  const put = async (path: string, sizeBytes: number) => {
    count++
    await writeSource(backends.root, path, sizeBytes)
  }
  const putSmall = async (folder: string, files: number) => {
    for (let index = 0; index < files; index++) await put(`${folder}/${index}`, index * 1009)
  }
  const record = async (name: string) => {
    const path = encodeURIComponent(`${backends.root}/${name}`)
    const [file] = (await longshore.api.get(`/files?path=${path}`)).items
    return file && longshore.api.get(`/files/${file.id}`)
  }
  const explain = async () => {
    const open = await longshore.api.files('&status=settling,pending,downloading,uploaded,failed,skipped,vanished')
    const lines = open.slice(0, 10).map(({ path, status, error, notification }) => {
      return `${path} ${status} ${error?.message ?? ''} ${notification?.error?.message ?? ''}`
    })
    return `${JSON.stringify((await longshore.api.get('/stats')).files)}\n${lines.join('\n')}\n${longshore.output()}`
  }
  const allNotified = () =>
    waitFor(async () => (await longshore.api.get('/stats')).files.notified.count === count, {
      what: `${count} files to be notified`,
      explain
    })
  const expectAllWell = async () => {
    const report = await checkEverything({ backends, longshore, consumer })
    expect(report.problems).toEqual([])
    expect(report.files).toBe(count)
    return report
  }

  test('no file is stored or announced twice in quiet times', async () => {
    await putSmall('quiet', 150)
    await put('quiet/large', 40 * MiB)
    await allNotified()
    expect(await expectAllWell()).toMatchObject({ messages: count, duplicates: 0 })
  })

  test('a connection that is cut in the middle of a large file costs nothing but time', async () => {
    const { received } = backends.proxy!
    backends.proxy!.cutAfter(120 * MiB)
    await put('cut/large', LARGE_BYTES)
    await allNotified()
    expect(backends.proxy!.received - received).toBeLessThan(MOST_READ_BYTES)
    const { history } = await record('cut/large')
    const statuses = history.map(({ status }: { status: string }) => status)
    expect(statuses.slice(-5)).toEqual(['downloading', 'pending', 'downloading', 'uploaded', 'notified'])
    await expectAllWell()
  })

  test('an object store that is away for ten seconds is waited for, and the large file goes on', async () => {
    const { received } = backends.proxy!
    await put('store/large', LARGE_BYTES)
    await waitFor(() => backends.proxy!.received > received + 120 * MiB, {
      what: 'the copy to be under way',
      everyMs: 5
    })
    await backends.minio.halt()
    const away = delay(10_000)
    await putSmall('store', 50)
    await waitFor(async () => (await record('store/large'))?.error?.type === 'STORE_UNAVAILABLE', {
      what: 'the outage to be noticed',
      explain
    })
    const ready = await longshore.api.request('GET', '/health/ready')
    expect(ready).toMatchObject({ status: 503, body: { missing: ['storage'] } })
    await away
    await backends.minio.resume()
    await allNotified()
    await expectAllWell()
    expect(backends.proxy!.received - received).toBeLessThan(MOST_READ_BYTES)
    // Its attempts count what was the file's fault.
    expect((await record('store/large')).attempts).toBe(1)
  })

  test('a broker that is away for twenty seconds holds announcements up and copies not', async () => {
    await backends.rabbit.halt()
    const away = delay(20_000)
    const before = count
    await putSmall('broker', 60)
    await waitFor(async () => (await longshore.api.get('/stats')).files.uploaded.count === count - before, {
      what: 'everything to be stored without the broker',
      explain
    })
    expect((await longshore.api.get('/stats')).announcements.due).toBe(count - before)
    await away
    await backends.rabbit.restart()
    await allNotified()
    await waitFor(() => new Set(consumer.messages.map(({ messageId }) => messageId)).size === count, {
      what: 'the consumer to be back'
    })
    await expectAllWell()
  })
})
