/** A Longshore node: a broker with the services that the configuration names. */
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { ServiceBroker, type ServiceSchema } from 'moleculer'
import type { Config, ServiceName } from './config.ts'
import { brokerOptions } from './moleculer.config.ts'

type Factory = (config: Config) => ServiceSchema

/**
 * In this order, so that owners of data come before their users. Loaded only where they run: a process that only
 * copies does not carry the database's and the gateway's libraries in memory.
 */
const factories: Record<ServiceName, () => Promise<Factory>> = {
  servers: async () => (await import('./services/servers.service.ts')).serversService,
  files: async () => (await import('./services/files.service.ts')).filesService,
  scanner: async () => (await import('./services/scanner.service.ts')).scannerService,
  transfer: async () => (await import('./services/transfer.service.ts')).transferService,
  storage: async () => (await import('./services/storage.service.ts')).storageService,
  notifier: async () => (await import('./services/notifier.service.ts')).notifierService,
  api: async () => (await import('./services/api.service.ts')).apiService
}

/** Not started yet. */
export async function createNode(
  config: Config,
  overrides: Partial<ReturnType<typeof brokerOptions>> = {}
): Promise<ServiceBroker> {
  const broker = new ServiceBroker({ ...brokerOptions(config), ...overrides })
  for (const [name, load] of Object.entries(factories)) {
    if (config.services.includes(name as ServiceName)) broker.createService((await load())(config))
  }
  return broker
}

/**
 * Stops workers before the owners of the data that they still report to. Moleculer stops all services of a node at
 * once, which would cut a worker's last words off.
 */
export async function stopNode(broker: ServiceBroker): Promise<void> {
  for (const name of ['api', 'scanner', 'transfer', 'notifier', 'storage']) {
    const service = broker.getLocalService(name)
    if (service) await broker.destroyService(service)
  }
  await broker.stop()
}

/** The port on which the API of this node listens; it is chosen by the system where `API_PORT` is 0. */
export function apiPort(broker: ServiceBroker): number {
  const { server } = broker.getLocalService('api') as unknown as { server: Server }
  return (server.address() as AddressInfo).port
}
