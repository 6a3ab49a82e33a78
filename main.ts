/** `npm start`: every service of SERVICES in this process, until SIGTERM or SIGINT. */
import { ConfigError, loadConfig } from './config.ts'
import { armFailpoints } from './drivers/failpoint.ts'
import { createNode, stopNode } from './node.ts'
import { startProbe } from './probe.ts'

const STOP_MS = 30_000

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
armFailpoints(config.failpoints)
const broker = await createNode(config)
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
  await broker.start()
  if (config.metricsPort !== null) await startProbe(config.metricsPort, config.api.host)
} catch (error) {
  fail((error as Error).message)
}
