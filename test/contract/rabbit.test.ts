import { once } from 'node:events'
import { createServer, connect as dial, type Socket } from 'node:net'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals'
import { type Channel, type ChannelModel, type ConsumeMessage, connect } from 'amqplib'
import type { Queue } from '../../drivers/queue/queue.ts'
import { type RabbitOptions, rabbitQueue } from '../../drivers/queue/rabbit.ts'
import { type RabbitServer, startRabbit } from '../support/rabbit.ts'
import { message, queueContract } from './queue.contract.ts'

let rabbit: RabbitServer
let connection: ChannelModel
let channel: Channel
let count = 0

/** The test's own connection, which breaks with the broker like ours. */
async function attach() {
  connection = await connect(rabbit.url)
  connection.on('error', () => undefined)
  channel = await connection.createChannel()
}

async function receive(queue: string, wanted: number): Promise<ConsumeMessage[]> {
  const messages: ConsumeMessage[] = []
  let done: () => void = () => undefined
  const all = new Promise<void>((resolve) => {
    done = resolve
  })
  const { consumerTag } = await channel.consume(queue, (received) => {
    channel.ack(received!)
    messages.push(received!)
    if (messages.length === wanted) done()
  })
  await all
  await channel.cancel(consumerTag)
  return messages
}

/** A log whose lines can be awaited. */
function lines() {
  const waiting: { pattern: RegExp; resolve(): void }[] = []
  const add = (line: string) => {
    for (const { pattern, resolve } of waiting) if (pattern.test(line)) resolve()
  }
  const said = (pattern: RegExp) => new Promise<void>((resolve) => waiting.push({ pattern, resolve }))
  return { info: add, warn: add, said }
}

beforeAll(async () => {
  rabbit = await startRabbit()
  await attach()
})
afterAll(async () => {
  await connection?.close().catch(() => undefined)
  await rabbit?.stop()
})

queueContract('rabbit', async () => {
  const name = `contract-${++count}`
  const queue = rabbitQueue({ url: rabbit.url, exchange: name, routingKey: 'file.uploaded', queue: name })
  return {
    queue,
    received: async (wanted) => (await receive(name, wanted)).map(({ content }) => JSON.parse(content.toString())),
    close: async () => undefined
  }
})

describe('rabbit', () => {
  let name: string
  let log: ReturnType<typeof lines>
  let queue: Queue

  const make = (options: Partial<RabbitOptions> = {}) => {
    const defaults = { url: rabbit.url, exchange: name, routingKey: 'file.uploaded', log }
    queue = rabbitQueue({ ...defaults, ...options })
    return queue
  }

  beforeEach(() => {
    name = `test-${++count}`
    log = lines()
  })
  afterEach(() => queue.close())

  test('a message is persistent CloudEvents JSON that carries the event id and a time', async () => {
    await make({ queue: name }).open()
    await queue.publish(message('e1'))
    const [received] = await receive(name, 1)
    expect(received!.properties).toMatchObject({
      contentType: 'application/cloudevents+json',
      messageId: 'e1',
      deliveryMode: 2,
      timestamp: expect.any(Number)
    })
    expect(received!.fields).toMatchObject({ exchange: name, routingKey: 'file.uploaded' })
  })

  test('a message that no queue takes is QUEUE_UNROUTABLE, and is taken once a queue is bound', async () => {
    await make().open()
    await expect(queue.publish(message('e1'))).rejects.toMatchObject({ type: 'QUEUE_UNROUTABLE' })
    await channel.assertQueue(name)
    await channel.bindQueue(name, name, 'file.*')
    await queue.publish(message('e1'))
    expect(await receive(name, 1)).toHaveLength(1)
  })

  test('two unroutable sends of one event are both QUEUE_UNROUTABLE', async () => {
    await make().open()
    const results = await Promise.allSettled([queue.publish(message('e1')), queue.publish(message('e1'))])
    for (const result of results) expect(result).toMatchObject({ reason: { type: 'QUEUE_UNROUTABLE' } })
  })

  test('a full queue that refuses messages is QUEUE_NACKED until it is drained', async () => {
    const options = { arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } }
    await channel.assertQueue(name, options)
    await make({ queue: name }).open()
    await queue.publish(message('e1'))
    await expect(queue.publish(message('e2'))).rejects.toMatchObject({ type: 'QUEUE_NACKED' })
    await receive(name, 1)
    await queue.publish(message('e2'))
    expect(await receive(name, 1)).toHaveLength(1)
  })

  test('an exchange that is deleted under way is declared again', async () => {
    await make({ queue: name }).open()
    await channel.deleteExchange(name)
    const back = log.said(/^connected/)
    await expect(queue.publish(message('e1'))).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
    await back
    await queue.publish(message('e1'))
    expect(await receive(name, 1)).toHaveLength(1)
  })

  test('a wrong password, a missing vhost and an exchange of another type say what to mend', async () => {
    const wrong = rabbit.url.replace('guest:guest', 'guest:hunter2')
    const refusal = await make({ url: wrong })
      .open()
      .catch((error) => error)
    expect(refusal).toMatchObject({
      type: 'QUEUE_UNAVAILABLE',
      message: expect.stringContaining('mend them in AMQP_URL')
    })
    expect(refusal.message).not.toContain('hunter2')
    await queue.close()

    await expect(make({ url: `${rabbit.url}/nowhere` }).open()).rejects.toThrow(/vhost “nowhere”.*AMQP_URL/)
    await queue.close()

    await channel.assertExchange(name, 'fanout')
    await expect(make().open()).rejects.toThrow(/is no durable topic exchange.*AMQP_EXCHANGE/)
  })

  test('a broker that blocks publishers is QUEUE_UNAVAILABLE at once until it unblocks', async () => {
    await make({ queue: name, confirmTimeoutMs: 60_000 }).open()
    const blocked = log.said(/takes no messages now/)
    const unblocked = log.said(/takes messages again/)
    await rabbit.ctl('set_vm_memory_high_watermark', '0')
    // The broker blocks a connection when it next publishes; that message waits inside the broker.
    const waiting = queue.publish(message('e1'))
    await blocked
    await expect(queue.publish(message('e2'))).rejects.toThrow(/takes no messages now/)
    await expect(queue.ping()).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
    await rabbit.ctl('set_vm_memory_high_watermark', '0.4')
    await unblocked
    await waiting
    await queue.publish(message('e2'))
    expect(await receive(name, 2)).toHaveLength(2)
  })

  test('a broker that vanishes rejects what is in flight quickly, and after its return all goes on', async () => {
    await make({ queue: name }).open()
    await queue.publish(message('before'))
    const lost = log.said(/connection was lost/)
    const ids = Array.from({ length: 200 }, (_, index) => `e${index}`)
    const sends = Promise.allSettled(ids.map((id) => queue.publish(message(id))))
    await rabbit.halt('SIGKILL')
    const started = Date.now()
    const results = await sends
    await lost
    await expect(queue.publish(message('down'))).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
    await expect(queue.ping()).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
    // Sooner than a confirm is waited for.
    expect(Date.now() - started).toBeLessThan(12_000)

    const back = log.said(/^connected/)
    await rabbit.restart()
    await attach()
    await back
    await queue.publish(message('after'))
    const confirmed = ids.filter((_, index) => results[index]!.status === 'fulfilled')
    const present = (await channel.checkQueue(name)).messageCount
    const received = (await receive(name, present)).map(({ properties }) => properties.messageId)
    expect(received).toEqual(expect.arrayContaining(['before', 'after', ...confirmed]))
  })

  test('a queue whose first connection failed connects by itself', async () => {
    const port = new URL(rabbit.url).port
    // Accepts and hangs up until it is told to pass the bytes on.
    let isPassing = false
    const sockets = new Set<Socket>()
    const gate = createServer((socket) => {
      if (!isPassing) return socket.destroy()
      const onward = dial(Number(port), '127.0.0.1')
      sockets.add(socket)
      for (const end of [socket, onward]) end.on('error', () => undefined)
      socket.pipe(onward).pipe(socket)
      return undefined
    }).listen(0, '127.0.0.1')
    await once(gate, 'listening')
    const url = rabbit.url.replace(`:${port}`, `:${(gate.address() as { port: number }).port}`)
    await expect(make({ url, queue: name }).open()).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
    const connected = log.said(/^connected/)
    isPassing = true
    await connected
    await queue.publish(message('e1'))
    expect(await receive(name, 1)).toHaveLength(1)
    await queue.close()
    for (const socket of sockets) socket.destroy()
    gate.close()
    await once(gate, 'close')
  })

  test('a confirm that does not come in time is QUEUE_UNAVAILABLE', async () => {
    await make({ queue: name, confirmTimeoutMs: 300 }).open()
    const blocked = log.said(/takes no messages now/)
    await rabbit.ctl('set_vm_memory_high_watermark', '0')
    await expect(queue.publish(message('e1'))).rejects.toThrow(/did not confirm a message within 300 ms/)
    await blocked
    await rabbit.ctl('set_vm_memory_high_watermark', '0.4')
  })
})
