import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals'
import { type Channel, type ChannelModel, connect } from 'amqplib'
import { messageOf } from '../support/checker.ts'
import { type Consumer, startConsumer } from '../support/consumer.ts'
import { type Embedded, startEmbedded } from '../support/embedded.ts'
import { through, waitFor } from '../support/longshore.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'
import { type RabbitServer, startRabbit } from '../support/rabbit.ts'
import type { Json } from '../support/rest.ts'
import { writeSource } from '../support/source-files.ts'

const ROUTE = { exchange: 'longshore', routingKey: 'file.uploaded' }
const QUEUE = 'ingested'
/** Each way: a message has come and its confirmation is still on its way for so long. */
const WAY_MS = 2_000

let rabbit: RabbitServer
let proxy: FaultyProxy
let consumer: Consumer
let connection: ChannelModel
let channel: Channel
let longshore: Embedded

beforeAll(async () => {
  rabbit = await startRabbit()
  proxy = await startProxy({ target: { host: '127.0.0.1', port: rabbit.port } })
  consumer = await startConsumer({ url: rabbit.url, ...ROUTE, queue: QUEUE })
  connection = await connect(rabbit.url)
  channel = await connection.createChannel()
  longshore = await startEmbedded({ env: { AMQP_URL: through(rabbit.url, proxy) } })
})
afterEach(async () => {
  const seen = consumer.messages.map(messageOf)
  expect(await longshore.problems({ messages: seen })).toEqual([])
})
afterAll(async () => {
  await longshore?.stop()
  await connection?.close()
  await consumer?.close()
  await proxy?.close()
  await rabbit?.stop()
})

/** Stored, and not announced because of this. */
const held = (path: string, type: string) =>
  waitFor(
    async () => {
      const file = await longshore.file(path)
      return file?.status === 'uploaded' && file.notification?.error?.type === type ? file : null
    },
    { what: `${path} to wait with ${type}`, explain: longshore.longshore.output }
  )
const messagesOf = ({ id }: Json) => consumer.messages.filter(({ event }) => event.data.fileId === id)
const dueCount = async () => (await longshore.longshore.api.get('/stats')).announcements.due

describe('an announcement', () => {
  test('that no queue takes waits beside its stored file, says why, and goes out once one is bound', async () => {
    await channel.unbindQueue(QUEUE, ROUTE.exchange, ROUTE.routingKey)
    await writeSource(longshore.root, 'unroutable', 1000)
    const file = await held('unroutable', 'QUEUE_UNROUTABLE')
    expect(file.notification.error.message).toMatch(/no queue is bound/)
    expect(await dueCount()).toBe(1)
    await channel.bindQueue(QUEUE, ROUTE.exchange, ROUTE.routingKey)
    await longshore.becomes('unroutable', 'notified')
    expect(messagesOf(file)).toHaveLength(1)
  })

  test('that a full queue refuses waits, and goes out under its id once there is room', async () => {
    const full = { durable: true, arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } }
    await channel.assertQueue('full', full)
    await channel.bindQueue('full', ROUTE.exchange, ROUTE.routingKey)
    // The first fills it.
    await writeSource(longshore.root, 'refused/1', 1000)
    await longshore.becomes('refused/1', 'notified')
    await writeSource(longshore.root, 'refused/2', 1000)
    const file = await held('refused/2', 'QUEUE_NACKED')
    await channel.deleteQueue('full')
    await longshore.becomes('refused/2', 'notified')
    // The other queue had taken each try.
    expect(new Set(messagesOf(file).map(({ messageId }) => messageId)).size).toBe(1)
  })

  test('waits while the broker takes nothing, and copies do not', async () => {
    await rabbit.ctl('set_vm_memory_high_watermark', '0')
    try {
      for (const name of [1, 2, 3]) await writeSource(longshore.root, `blocked/${name}`, 1000)
      for (const name of [1, 2, 3]) await longshore.becomes(`blocked/${name}`, 'uploaded')
      expect(await dueCount()).toBe(3)
    } finally {
      await rabbit.ctl('set_vm_memory_high_watermark', '0.4')
    }
    for (const name of [1, 2, 3]) await longshore.becomes(`blocked/${name}`, 'notified')
  })

  test('whose confirmation is lost comes again under the same id', async () => {
    proxy.delay(2 * WAY_MS)
    await writeSource(longshore.root, 'unconfirmed', 1000)
    const stored = await longshore.becomes('unconfirmed', 'uploaded')
    await waitFor(() => messagesOf(stored).length === 1, { what: 'the message', everyMs: 5 })
    proxy.cut()
    proxy.delay(0)
    const { notification } = await longshore.becomes('unconfirmed', 'notified')
    await waitFor(() => messagesOf(stored).length === 2, { what: 'the second message' })
    expect(messagesOf(stored).map(({ messageId }) => messageId)).toEqual([
      notification.messageId,
      notification.messageId
    ])
    expect(messagesOf(stored)[1]!.event).toEqual(messagesOf(stored)[0]!.event)
  })
})
