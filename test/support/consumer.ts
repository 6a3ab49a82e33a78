/** A consumer of the announcements, as a user of Longshore would write one: it comes back after the broker does. */
import { type ChannelModel, connect } from 'amqplib'
import type { Json } from './rest.ts'

export interface Received {
  /** AMQP's messageId. */
  messageId: string
  contentType: string
  /** The CloudEvents document. */
  event: Json
  isRedelivered: boolean
  /** ms since the epoch. */
  receivedAt: number
}

export interface Consumer {
  readonly messages: readonly Received[]
  close(): Promise<void>
}

export interface ConsumerOptions {
  url: string
  exchange: string
  routingKey: string
  queue: string
}

const RECONNECT_MS = 250

/** Resolves once its queue is bound. */
export async function startConsumer({ url, exchange, routingKey, queue }: ConsumerOptions): Promise<Consumer> {
  const messages: Received[] = []
  let connection: ChannelModel | null = null
  let attaching: Promise<void> = Promise.resolve()
  let timer: NodeJS.Timeout | undefined
  let isClosed = false

  const attach = async () => {
    const made = await connect(url)
    // What ends it is told by `close`.
    made.on('error', () => undefined)
    made.on('close', later)
    connection = made
    const channel = await made.createChannel()
    channel.on('error', () => undefined)
    await channel.assertExchange(exchange, 'topic', { durable: true })
    await channel.assertQueue(queue, { durable: true })
    await channel.bindQueue(queue, exchange, routingKey)
    await channel.consume(queue, (message) => {
      if (message === null) return
      messages.push({
        messageId: message.properties.messageId,
        contentType: message.properties.contentType,
        event: JSON.parse(message.content.toString()),
        isRedelivered: message.fields.redelivered,
        receivedAt: Date.now()
      })
      channel.ack(message)
    })
  }
  /** Of the connection that was lost, or that could not be set up: then nothing of it may stay. */
  const later = () => {
    const left = connection
    connection = null
    clearTimeout(timer)
    void left?.close().catch(() => undefined)
    if (isClosed) return
    timer = setTimeout(() => {
      attaching = attach().catch(later)
    }, RECONNECT_MS)
  }
  await attach().catch((error) => {
    isClosed = true
    later()
    throw error
  })
  return {
    messages,
    async close() {
      isClosed = true
      clearTimeout(timer)
      // One that is being made would stay open otherwise.
      await attaching
      await connection?.close().catch(() => undefined)
    }
  }
}
