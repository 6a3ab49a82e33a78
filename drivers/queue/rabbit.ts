/**
 * RabbitMQ by amqplib: one connection, a confirm channel for publishing and a plain one for declarations and checks.
 *
 *   closed ──open──▶ connecting ──declared──▶ connected ⇄ blocked
 *                      ▲    │ fails               │ lost
 *                      │    ▼                     │
 *                      └─ waiting ◀───────────────┘      250 ms, doubling to 5 s; `close` ends every state
 *
 * A publish settles exactly once: confirmed, returned, nacked, timed out, or rejected with its connection. One that was
 * rejected may still have reached the broker: the caller sends it again, and consumers drop repeats by messageId.
 */
import { type Channel, type ChannelModel, type ConfirmChannel, connect } from 'amqplib'
import { IngestError } from '../../domain/errors.ts'
import type { Message, Queue } from './queue.ts'

const firstDelayMs = 250
const longestDelayMs = 5000
const connectTimeoutMs = 10_000
const pingTimeoutMs = 5000
const closeTimeoutMs = 2000
/** The broker and we give a silent peer up after two of these. */
const heartbeatSeconds = 10

export interface RabbitOptions {
  /** `amqp://user:password@host:5672/vhost` or `amqps://…`. */
  url: string
  exchange: string
  routingKey: string
  /** A durable queue to declare and bind as well; one that exists keeps its own arguments. */
  queue?: string | null
  confirmTimeoutMs?: number
  log?: { info(message: string): void; warn(message: string): void }
}

interface Pending {
  messageId: string
  isReturned: boolean
  settle(error?: IngestError): void
}

interface Session {
  connection: ChannelModel
  publishing: ConfirmChannel
  control: Channel
}

/** The Queue over RabbitMQ. Its publishes may overlap, up to some hundreds. */
export function rabbitQueue(options: RabbitOptions): Queue {
  return new RabbitQueue(options)
}

class RabbitQueue implements Queue {
  readonly #options: RabbitOptions
  readonly #address: URL
  readonly #pending = new Set<Pending>()
  #session: Session | null = null
  #opening: Promise<void> | null = null
  #isClosed = false
  #blockedBecause: string | null = null
  #lastProblem = 'it was not opened'
  #delayMs = firstDelayMs
  #timer: NodeJS.Timeout | undefined

  constructor(options: RabbitOptions) {
    this.#options = options
    this.#address = new URL(options.url)
    if (!this.#address.searchParams.has('heartbeat')) {
      this.#address.searchParams.set('heartbeat', String(heartbeatSeconds))
    }
  }

  open(): Promise<void> {
    if (this.#isClosed) return Promise.reject(this.#unavailable('it was closed'))
    this.#opening ??= this.#tryConnecting()
    return this.#opening
  }

  async publish({ messageId, body }: Message): Promise<void> {
    const { publishing } = this.#usable()
    const content = Buffer.from(JSON.stringify(body))
    const properties = {
      persistent: true,
      mandatory: true,
      contentType: 'application/cloudevents+json',
      messageId,
      timestamp: Math.floor(Date.now() / 1000)
    }
    const { exchange, routingKey } = this.#options
    await new Promise<void>((resolve, reject) => {
      const pending = this.#track(messageId, (error) => (error ? reject(error) : resolve()))
      try {
        publishing.publish(exchange, routingKey, content, properties, (error) => {
          // The broker sends its return before its ack, so a return is already known here.
          if (pending.isReturned) pending.settle(this.#unroutable())
          else if (error === null) pending.settle()
          else if (messageOf(error) === 'message nacked') pending.settle(this.#nacked(error))
          // Else its channel closed: `#lose` rejects it in this same turn, and knows why.
        })
      } catch (error) {
        pending.settle(this.#unavailable(messageOf(error), error))
      }
    })
  }

  async ping(): Promise<void> {
    const session = this.#usable()
    try {
      await within(pingTimeoutMs, 'the broker does not answer', session.control.checkExchange(this.#options.exchange))
    } catch (error) {
      throw this.#unavailable(this.#explain(error), error)
    }
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#timer)
    const session = this.#session
    this.#forget('it was closed')
    if (session !== null) await end(session.connection)
  }

  #usable(): Session {
    if (this.#session === null) throw this.#unavailable(this.#lastProblem)
    if (this.#blockedBecause !== null) {
      throw this.#unavailable(
        `the broker takes no messages now (${this.#blockedBecause}): free memory or disk space on it`
      )
    }
    return this.#session
  }

  #track(messageId: string, done: (error?: IngestError) => void): Pending {
    const timeoutMs = this.#options.confirmTimeoutMs ?? 15_000
    const pending: Pending = {
      messageId,
      isReturned: false,
      settle: (error) => {
        if (!this.#pending.delete(pending)) return
        clearTimeout(timer)
        done(error)
      }
    }
    const late = () => pending.settle(this.#unavailable(`the broker did not confirm a message within ${timeoutMs} ms`))
    const timer = setTimeout(late, timeoutMs)
    this.#pending.add(pending)
    return pending
  }

  async #tryConnecting(): Promise<void> {
    try {
      const session = await this.#connect()
      if (this.#isClosed) {
        await end(session.connection)
        throw new Error('it was closed')
      }
      this.#session = session
      this.#delayMs = firstDelayMs
      this.#lastProblem = ''
      this.#options.log?.info(`connected to RabbitMQ at ${this.#address.host}`)
    } catch (error) {
      const problem = this.#explain(error)
      if (problem !== this.#lastProblem && !this.#isClosed) {
        this.#options.log?.warn(
          `RabbitMQ at ${this.#address.host} cannot be used, trying again until it can: ${problem}`
        )
      }
      this.#lastProblem = problem
      this.#reconnectLater()
      throw this.#unavailable(problem, error)
    }
  }

  #reconnectLater() {
    if (this.#isClosed) return
    this.#timer = setTimeout(() => this.#tryConnecting().catch(() => undefined), this.#delayMs)
    this.#delayMs = Math.min(this.#delayMs * 2, longestDelayMs)
  }

  async #connect(): Promise<Session> {
    const connection = await connect(this.#address.href, { timeout: connectTimeoutMs, noDelay: true })
    try {
      const lost = this.#watch(connection)
      return await within(
        connectTimeoutMs,
        'the broker does not answer',
        Promise.race([this.#declare(connection), lost])
      )
    } catch (error) {
      await end(connection)
      throw error
    }
  }

  /** Follows one connection to its end; the promise only ever rejects, with what ended it. */
  #watch(connection: ChannelModel): Promise<never> {
    let cause: unknown
    this.#blockedBecause = null
    connection.on('error', (error) => {
      cause = error
    })
    connection.on('blocked', (reason) => {
      this.#blockedBecause = reason
      this.#options.log?.warn(`RabbitMQ takes no messages now: ${reason}`)
    })
    connection.on('unblocked', () => {
      this.#blockedBecause = null
      this.#options.log?.info('RabbitMQ takes messages again')
    })
    const ended = new Promise<never>((_, reject) => {
      connection.on('close', (error) => {
        const reason = cause ?? error ?? new Error('the connection was closed')
        if (this.#session?.connection === connection) this.#lose(reason)
        reject(reason)
      })
    })
    // Only a connection that ends while it is being made has someone waiting for this.
    ended.catch(() => undefined)
    return ended
  }

  #lose(error: unknown) {
    const problem = `the connection was lost: ${this.#explain(error)}`
    this.#options.log?.warn(`RabbitMQ at ${this.#address.host}: ${problem}`)
    this.#forget(problem)
    this.#reconnectLater()
  }

  #forget(problem: string) {
    this.#session = null
    this.#blockedBecause = null
    this.#lastProblem = problem
    for (const pending of [...this.#pending]) pending.settle(this.#unavailable(problem))
  }

  async #declare(connection: ChannelModel): Promise<Session> {
    const { exchange, routingKey, queue } = this.#options
    const control = this.#guard(connection, await connection.createChannel())
    await control.assertExchange(exchange, 'topic', { durable: true })
    if (queue) {
      // Looked up first: declaring a queue again with other arguments than an operator gave it would be refused.
      if (!(await queueExists(connection, queue))) await control.assertQueue(queue, { durable: true })
      await control.bindQueue(queue, exchange, routingKey)
    }
    const publishing = this.#guard(connection, await connection.createConfirmChannel())
    publishing.on('return', ({ properties }) => {
      // Returns keep the order of publishing, so of two sends of one event the earlier is meant.
      for (const pending of this.#pending) {
        if (pending.messageId !== properties.messageId || pending.isReturned) continue
        pending.isReturned = true
        return
      }
    })
    return { connection, publishing, control }
  }

  /** A channel that the broker closes (its exchange was deleted, say) takes the connection along: reconnecting declares all anew. */
  #guard<C extends Channel>(connection: ChannelModel, channel: C): C {
    let cause: unknown
    channel.on('error', (error) => {
      cause = error
    })
    const onClose = () => {
      if (this.#session?.connection !== connection) return
      this.#lose(cause ?? new Error('the channel was closed'))
      void end(connection)
    }
    // A connection that ends closes its channels first: a moment later it has said itself why.
    channel.on('close', () => queueMicrotask(onClose))
    return channel
  }

  #unavailable(problem: string, cause?: unknown) {
    return new IngestError('QUEUE_UNAVAILABLE', `RabbitMQ at ${this.#address.host}: ${problem}`, { cause })
  }

  #unroutable() {
    const { exchange, routingKey } = this.#options
    const message = `no queue is bound to exchange “${exchange}” with routing key “${routingKey}”: bind one, or set AMQP_QUEUE`
    return new IngestError('QUEUE_UNROUTABLE', message)
  }

  #nacked(cause: unknown) {
    const message = 'RabbitMQ refused the message (nack): a bound queue is full or cannot write; drain it or mend it'
    return new IngestError('QUEUE_NACKED', message, { cause })
  }

  /** amqplib's and the broker's words, and what to mend where it is known. The broker names no password. */
  #explain(error: unknown): string {
    const words = messageOf(error)
    const { exchange } = this.#options
    if (/ACCESS_REFUSED.*Login|Handshake terminated.*403/.test(words)) {
      return 'it refused the user name or password: mend them in AMQP_URL'
    }
    if (/Expected ConnectionOpenOk/.test(words)) {
      const vhost = decodeURIComponent(this.#address.pathname.slice(1)) || '/'
      return `it refused the vhost “${vhost}”: make it, give the user permissions on it, or mend the vhost in AMQP_URL`
    }
    if (/PRECONDITION_FAILED.*exchange/.test(words)) {
      return `exchange “${exchange}” exists and is no durable topic exchange: delete it, or set AMQP_EXCHANGE to another name (${words})`
    }
    if (/ACCESS_REFUSED/.test(words)) {
      return `the user may not do this: give it configure, write and read permissions (${words})`
    }
    return words
  }
}

async function queueExists(connection: ChannelModel, queue: string): Promise<boolean> {
  const channel = await connection.createChannel()
  // The broker closes the channel of a failed look-up; amqplib reports that here as well as in the rejection.
  channel.on('error', () => undefined)
  try {
    await channel.checkQueue(queue)
  } catch (error) {
    if ((error as { code?: number }).code === 404) return false
    throw error
  }
  await channel.close()
  return true
}

/** Closes politely, and by force when the broker does not answer. */
async function end(connection: ChannelModel): Promise<void> {
  connection.on('error', () => undefined)
  try {
    await within(closeTimeoutMs, 'the broker does not answer', connection.close())
  } catch {
    const { stream } = connection.connection as unknown as { stream: { destroy(): void } }
    stream.destroy()
  }
}

async function within<T>(timeoutMs: number, problem: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(problem)), timeoutMs)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

function messageOf(error: unknown): string {
  const { message, code } = error as { message?: string; code?: unknown }
  // An AggregateError of several addresses has no message of its own.
  return message || String(code ?? error)
}
