import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals'
import { type Consumer, startConsumer } from '../support/consumer.ts'
import { type Backends, type Longshore, startBackends, startLongshore, waitFor } from '../support/longshore.ts'
import { startNats } from '../support/nats.ts'
import { writeSource } from '../support/source-files.ts'

type Name = 'nats' | 'mongo' | 's3' | 'amqp' | 'sftp'

/** What `/health/ready` misses while a backend is away. */
const missedBy: Record<Exclude<Name, 'sftp'>, string[]> = {
  nats: ['network'],
  mongo: ['servers', 'files'],
  s3: ['storage'],
  amqp: ['notifier']
}

describe('backends that come in any order', () => {
  let backends: Backends
  let consumer: Consumer
  let longshore: Longshore | null = null
  let servers = 0

  beforeAll(async () => {
    backends = await startBackends({ proxied: 'everything' })
    consumer = await startConsumer(backends.queue)
  })
  afterEach(async () => {
    await longshore?.stop()
    longshore = null
  })
  afterAll(async () => {
    await consumer?.close()
    await backends?.stop()
  })

  const proxyOf = (name: Exclude<Name, 's3'>) => {
    if (name === 'sftp') return backends.proxy!
    return name === 'nats' ? backends.proxies!.nats[0] : backends.proxies![name]
  }
  const take = async (name: Name) => {
    if (name === 's3') backends.proxies!.s3.fault = () => ({ kind: 'reset' })
    else {
      await proxyOf(name).refuse()
      proxyOf(name).cut()
    }
  }
  const give = async (name: Name) => {
    if (name === 's3') backends.proxies!.s3.fault = null
    else await proxyOf(name).accept()
  }
  const ready = async () => (await longshore!.api.request('GET', '/health/ready', undefined, { key: null })).body

  const orders: Name[][] = [
    ['nats', 'mongo', 's3', 'amqp', 'sftp'],
    ['sftp', 'amqp', 's3', 'mongo', 'nats'],
    ['s3', 'nats', 'amqp', 'sftp', 'mongo']
  ]

  test.each(orders)(
    '%s, %s, %s, %s, %s: each is named while it is away, and work begins by itself',
    async (...order) => {
      for (const name of order) await take(name)
      longshore = await startLongshore({ backends, isTogether: true, isImpatient: true })
      const { api } = longshore
      const live = () => api.request('GET', '/health/live', undefined, { key: null })
      await waitFor(async () => (await live()).status === 200, { what: 'the process to answer' })
      const away = new Set(order)
      for (const name of order) {
        // Nothing can be asked of the others without the network.
        const missed = [...(away.has('nats') ? (['nats'] as const) : away)].flatMap((one) =>
          one === 'sftp' ? [] : missedBy[one]
        )
        await waitFor(async () => `${(await ready()).missing.toSorted()}` === `${missed.toSorted()}`, {
          what: `${missed} to be missed`,
          explain: async () => `${JSON.stringify(await ready())}\n${longshore!.output()}`
        })
        expect(await live()).toMatchObject({ status: 200 })
        await give(name)
        away.delete(name)
      }
      await waitFor(async () => (await ready()).status === 'ready', { what: 'all to be there' })

      const name = `order-${++servers}`
      await writeSource(backends.root, `${name}/first`, 1000)
      const policy = { roots: [`${backends.root}/${name}`], interval: 1, settle: { checks: 1, seconds: 0 } }
      await api.post('/servers', backends.server({ name, ...policy }))
      const isAnnounced = () => consumer.messages.some(({ event }) => event.data.serverName === name)
      await waitFor(isAnnounced, { what: 'the file to be announced', explain: longshore.output })

      // Once for each thing that waits, not once for each try.
      const complaints = longshore.output().match(/^.*(WARN|ERROR).*$/gm) ?? []
      expect(complaints.length).toBeLessThan(20)
      expect(new Set(complaints.map((line) => line.replace(/^\S+ /, ''))).size).toBe(complaints.length)
      const waits = complaints.filter((line) => line.includes('NATS at 127.0.0.1'))
      expect(waits).toHaveLength(1)
      expect(waits[0]).toMatch(/cannot be used: nobody listens there; waiting until it can be/)
    }
  )

  test('a server that is away at first is tried again by itself within two leases of its return', async () => {
    longshore = await startLongshore({ backends, isTogether: true })
    const { api } = longshore
    await take('sftp')
    await writeSource(backends.root, 'late/file', 1000)
    const policy = { roots: [`${backends.root}/late`], interval: 1, settle: { checks: 1, seconds: 0 } }
    await api.post('/servers', backends.server({ name: 'late', ...policy }))
    await waitFor(async () => (await api.get('/servers/late')).failures >= 3, {
      what: 'three failures'
    })
    await give('sftp')
    const isAnnounced = () => consumer.messages.some(({ event }) => event.data.serverName === 'late')
    const twoLeasesMs = 60_000
    const what = 'the file to be announced'
    await waitFor(isAnnounced, { timeoutMs: twoLeasesMs, what, explain: longshore.output })
  })
})

describe('a connection to NATS that is over for good', () => {
  test('ends the process with an error, so that a supervisor starts it again', async () => {
    const backends = await startBackends()
    let nats = await startNats({ password: 'of-today' })
    let longshore: Longshore | null = null
    try {
      longshore = await startLongshore({ backends, isTogether: true, env: { TRANSPORTER: nats.url } })
      const [running] = longshore.processes
      await nats.halt()
      nats = await startNats({ port: nats.port, password: 'of-tomorrow' })
      expect(await running!.exited).toEqual({ code: 1, signal: null })
      expect(running!.output()).toMatch(/longshore: the connection to NATS at 127\.0\.0\.1:\d+ is over .*start this/)
      expect(running!.output()).not.toContain('of-today')
    } finally {
      await longshore?.stop()
      await nats.stop()
      await backends.stop()
    }
  })
})
