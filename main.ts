/** `npm start`: every service of SERVICES in this process, until SIGTERM or SIGINT. */
import { type Config, ConfigError, loadConfig } from './config.ts'
import { armFailpoints } from './drivers/failpoint.ts'
import { networkName, reachNats, watchNats } from './drivers/network/nats.ts'
import { startProbe } from './probe.ts'
import { type Lobby, lobbyGivesWay, openLobby } from './rest/lobby.ts'
import { keepHeapSmall } from './small-heap.ts'
import { STOP_MS } from './stop-budget.ts'

function fail(message: string): never {
  console.error(`longshore: ${message}`)
  process.exit(1)
}

function configuration() {
  try {
    return loadConfig(process.env)
  } catch (error) {
    if (error instanceof ConfigError) fail(error.message)
    throw error
  }
}

const config = configuration()
keepHeapSmall(config)
// After that: the libraries alone make the heap grow.
const { createNode, stopNode } = await import('./node.ts')
armFailpoints(config.failpoints)
/** What the start waits for; null once everything of this process runs. */
let waitsFor: Record<string, string> | null = { start: 'the services of this process are being started' }
const lobby = await lobbyOf(config)
const broker = await createNode(config, lobby ? { middlewares: [lobbyGivesWay(lobby)] } : {})
let stopping = false

async function stop(signal: string): Promise<void> {
  if (stopping) fail(`${signal} came twice; stopping at once`)
  stopping = true
  broker.logger.info(`${signal}: finishing what is in flight`)
  setTimeout(() => fail(`not stopped after ${STOP_MS} ms`), STOP_MS).unref()
  await stopNode(broker)
  process.exit(0)
}

process.on('SIGTERM', () => stop('SIGTERM'))
process.on('SIGINT', () => stop('SIGINT'))

try {
  const { metricsPort, api, transporter } = config
  if (metricsPort !== null) await startProbe({ port: metricsPort, host: api.host, waitsFor: () => waitsFor })
  if (transporter !== null) await network(transporter)
  await broker.start()
  waitsFor = null
} catch (error) {
  fail((error as Error).message)
}

/** Only where the gateway has to wait for the network, and at a port that is known before. */
async function lobbyOf({ services, transporter, api }: Config): Promise<Lobby | null> {
  if (!services.includes('api') || transporter === null || api.port === 0) return null
  return openLobby({ ...api, waitsFor: () => waitsFor ?? {} }).catch((error: NodeJS.ErrnoException) => {
    fail(`API_PORT ${api.port} on API_HOST ${api.host} should be free to listen on; 0 takes a free one (${error.code})`)
  })
}

/** Waits until NATS can be reached, and ends the process when the connection is over for good: a supervisor starts it anew. */
async function network(transporter: string): Promise<void> {
  watchNats(broker, (reason) => {
    if (!stopping) fail(`the connection to ${networkName(transporter)} is over (${reason}): start this process again`)
  })
  const before = waitsFor
  await reachNats(transporter, (problem) => {
    waitsFor = { network: problem }
    broker.logger.warn(`${problem}; waiting until it can be`)
  })
  waitsFor = before
}
