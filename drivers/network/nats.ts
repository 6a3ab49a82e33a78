/**
 * What Moleculer's NATS transporter leaves to us: waiting for the first connection with one line in the log instead of
 * three every five seconds, and noticing that a connection is over for good.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { ServiceBroker } from 'moleculer'
import { connect, type NatsConnection } from 'nats'

const RETRY_MS = 1_000
const CONNECT_TIMEOUT_MS = 5_000

/** `NATS at host:port`, without the user and password that an address may hold. */
export function networkName(transporter: string): string {
  return `NATS at ${serversOf(transporter)
    .map(({ host }) => host)
    .join(', ')}`
}

/** Several addresses are comma-separated, as Moleculer takes them. */
function serversOf(transporter: string): URL[] {
  return transporter.split(',').map((address) => new URL(address))
}

/** One attempt; rejects with an error that says what to mend. */
export async function tryNats(transporter: string): Promise<void> {
  const servers = serversOf(transporter)
  const { username, password } = servers.find((one) => one.username) ?? {}
  const options = {
    servers: servers.map(({ host }) => host),
    ...(username ? { user: username, pass: password } : {}),
    reconnect: false,
    timeout: CONNECT_TIMEOUT_MS
  }
  try {
    const connection = await connect(options)
    await connection.close()
  } catch (error) {
    const reason = explain(error as Error & { code?: string })
    throw new Error(`${networkName(transporter)} cannot be used: ${reason}`, { cause: error })
  }
}

/** Resolves once a connection could be made. `onProblem` hears why not, once for each new reason. */
export async function reachNats(transporter: string, onProblem: (problem: string) => void): Promise<void> {
  for (let last = ''; ; await delay(RETRY_MS)) {
    try {
      return await tryNats(transporter)
    } catch (error) {
      const problem = (error as Error).message
      if (problem !== last) onProblem(problem)
      last = problem
    }
  }
}

function explain({ code, message }: Error & { code?: string }): string {
  if (code === 'CONNECTION_REFUSED') return 'nobody listens there'
  if (code === 'AUTHORIZATION_VIOLATION') return 'it refused the user or password: mend them in TRANSPORTER'
  return message
}

/**
 * Calls `onLost` when the connection was closed for good, such as for a user whom the server no longer knows, or by our
 * own stop. After everything else the client connects again by itself.
 */
export function watchNats(broker: ServiceBroker, onLost: (reason: string) => void): void {
  broker.localBus.on('$transporter.connected', () => {
    const { tx } = broker.transit as unknown as { tx: { client: NatsConnection | null } }
    void tx.client?.closed().then((error) => onLost(error ? error.message : 'it was closed'))
  })
}
