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

/** Who takes work in, side by side; then who announces what these stored. The owners of the data end with the broker. */
const stopOrder = [['api', 'scanner', 'transfer'], ['notifier'], ['storage']]

/**
 * Stops workers before the owners of the data that they still report to. Moleculer stops all services of a node at
 * once, which would cut a worker's last words off. `node.leaving` comes first: Moleculer waits for the calls that a
 * service is answering before it tells it that it is stopped, and work would be taken in meanwhile.
 */
export async function stopNode(broker: ServiceBroker): Promise<void> {
  await broker.broadcastLocal('node.leaving')
  for (const names of stopOrder) {
    const services = names.map((name) => broker.getLocalService(name)).filter((service) => service !== undefined)
    await Promise.all(services.map((service) => broker.destroyService(service)))
  }
  await broker.stop()
}

/** The port on which the API of this node listens; it is chosen by the system where `API_PORT` is 0. */
export function apiPort(broker: ServiceBroker): number {
  const { server } = broker.getLocalService('api') as unknown as { server: Server }
  return (server.address() as AddressInfo).port
}
