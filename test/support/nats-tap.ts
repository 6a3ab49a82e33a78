/** Listens to everything that crosses a NATS server, for what must never be seen there. */
import { connect } from 'nats'

export interface NatsTap {
  /** Each a sentence: which secret was seen, and under which subject first. */
  readonly leaks: readonly string[]
  /** Messages so far: without any, nothing was listened to. */
  readonly messages: number
  stop(): Promise<void>
}

/** `secrets` is asked at each message, since some are made later. Comes back by itself after an outage. */
export async function tapNats(url: string, secrets: () => readonly string[]): Promise<NatsTap> {
  const connection = await connect({ servers: url, maxReconnectAttempts: -1, reconnectTimeWait: 250 })
  const leaks = new Map<string, string>()
  let messages = 0
  connection.subscribe('>', {
    callback: (_error, { subject, data }) => {
      messages++
      const text = Buffer.from(data)
      for (const [index, secret] of secrets().entries()) {
        if (!leaks.has(secret) && text.includes(secret))
          leaks.set(secret, `secret ${index + 1} of the tests crossed NATS under ${subject}`)
      }
    }
  })
  await connection.flush()
  return {
    get leaks() {
      return [...leaks.values()]
    },
    get messages() {
      return messages
    },
    stop: () => connection.close()
  }
}
