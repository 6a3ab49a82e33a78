/** Broker options from the configuration. Also what moleculer-runner reads. */
import type { BrokerOptions } from 'moleculer'
import { type Config, loadConfig } from './config.ts'
import { RUNNING_CALLS_MS } from './stop-budget.ts'

/** Heartbeats and time-outs that let a killed node cost seconds, not a lease. */
export function brokerOptions(config: Config): BrokerOptions {
  return {
    namespace: config.namespace,
    transporter: config.transporter
      ? { type: 'NATS', options: { url: config.transporter, maxReconnectAttempts: -1, reconnectTimeWait: 500 } }
      : null,
    logger: {
      type: 'Console',
      options: { colors: process.stdout.isTTY === true, formatter: 'short', autoPadding: true }
    },
    logLevel: config.logLevel as BrokerOptions['logLevel'],
    heartbeatInterval: 2,
    heartbeatTimeout: 6,
    requestTimeout: 5_000,
    // Only idempotent calls are repeated, by their callers and through the database: the broker's retries would
    // read the same flag of our errors and multiply them.
    retryPolicy: { enabled: false },
    registry: { strategy: 'RoundRobin', preferLocal: true },
    tracking: { enabled: true, shutdownTimeout: RUNNING_CALLS_MS },
    contextParamsCloning: false,
    validator: true,
    metrics: false,
    skipProcessEventRegistration: true,
    internalServices: true
  }
}

export default () => brokerOptions(loadConfig(process.env))
