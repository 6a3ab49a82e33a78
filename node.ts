/** A Longshore node: a broker with the services that the configuration names. */
import { ServiceBroker, type ServiceSchema } from 'moleculer'
import type { Config, ServiceName } from './config.ts'
import { brokerOptions } from './moleculer.config.ts'
import { apiService } from './services/api.service.ts'
import { filesService } from './services/files.service.ts'
import { notifierService } from './services/notifier.service.ts'
import { scannerService } from './services/scanner.service.ts'
import { serversService } from './services/servers.service.ts'
import { storageService } from './services/storage.service.ts'
import { transferService } from './services/transfer.service.ts'

const factories: Record<ServiceName, (config: Config) => ServiceSchema> = {
  servers: serversService,
  files: filesService,
  scanner: scannerService,
  transfer: transferService,
  storage: storageService,
  notifier: notifierService,
  api: apiService
}

/** Not started yet. In the order of the table, so that owners of data come before their users and stop after them. */
export function createNode(config: Config, overrides: Partial<ReturnType<typeof brokerOptions>> = {}): ServiceBroker {
  const broker = new ServiceBroker({ ...brokerOptions(config), ...overrides })
  for (const [name, factory] of Object.entries(factories)) {
    if (config.services.includes(name as ServiceName)) broker.createService(factory(config))
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
