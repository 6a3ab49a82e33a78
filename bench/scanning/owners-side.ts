/**
 * `servers` and `files` in a process of their own, as in production, but on the embedded database: the one for MongoDB's
 * place that can be had everywhere scans a collection for most questions. Every call to a collection is counted.
 */
import { ServiceBroker, type ServiceSchema } from 'moleculer'
import { loadConfig } from '../../config.ts'
import type { ServerRecord } from '../../domain/server.ts'
import type { Collection, Document } from '../../drivers/db/collection.ts'
import { openDatabase } from '../../drivers/db/connection.ts'
import type { Database } from '../../drivers/db/database.ts'
import { brokerOptions } from '../../moleculer.config.ts'
import { filesService } from '../../services/files.service.ts'
import { serversService } from '../../services/servers.service.ts'
import { standInForFiles } from './files-stand-in.ts'
import { Punctuality } from './punctuality.ts'
import { answer, resetUsage, usage } from './side.ts'

export interface OwnersJob {
  dataDir: string
  natsUrl: string
  /** `files` only counts what it is told, for listings that are too large for a database in memory. */
  isStandIn?: boolean
}

let broker: ServiceBroker
const calls = new Map<string, number>()
const punctuality = new Punctuality()

function counted<T extends Document>(name: string, collection: Collection<T>): Collection<T> {
  const count = (operation: string) => calls.set(`${name}.${operation}`, (calls.get(`${name}.${operation}`) ?? 0) + 1)
  return new Proxy(collection, {
    get(target, operation: keyof Collection<T>) {
      // A promise that resolves to the collection asks for `then`.
      if (typeof target[operation] !== 'function') return undefined
      return (...args: unknown[]) => {
        // Nothing to write is no question to the database.
        if (!Array.isArray(args[0]) || args[0].length > 0) count(operation)
        const result = (target[operation] as (...args: unknown[]) => unknown)(...args)
        if (name !== 'servers' || operation !== 'replaceEach') return result
        return (result as Promise<boolean[]>).then((written) => {
          punctuality.see(args[0] as { from: ServerRecord; to: ServerRecord }[], written, Date.now())
          return written
        })
      }
    }
  })
}

async function countingDatabase(dataDir: string): Promise<Database> {
  const database = await openDatabase({ mongoUrl: null, dataDir })
  return {
    ...database,
    collection: async (adapter, indexes) =>
      counted(
        (adapter as unknown as { service: { name: string } }).service.name,
        await database.collection(adapter, indexes)
      )
  }
}

answer({
  async start({ dataDir, natsUrl, isStandIn }: OwnersJob) {
    const config = { ...loadConfig({ DATA_DIR: dataDir, LOG_LEVEL: 'error' }), transporter: natsUrl }
    broker = new ServiceBroker({ ...brokerOptions(config), nodeID: 'owners' })
    const methods = { openDatabase: () => countingDatabase(dataDir) }
    broker.createService({ mixins: [serversService(config)], methods } as unknown as ServiceSchema)
    if (isStandIn) broker.createService(standInForFiles)
    else broker.createService({ mixins: [filesService(config)], methods } as unknown as ServiceSchema)
    await broker.start()
    return config.encryptionKey.toString('base64')
  },
  async call({ action, params }: { action: string; params: object }) {
    await broker.waitForServices([action.split('.')[0]!], 30_000)
    return broker.call(action, params, { timeout: 0 })
  },
  insertServers(servers: ServerRecord[]) {
    const { collection } = broker.getLocalService('servers') as unknown as { collection: Collection<ServerRecord> }
    return collection.insertNew(servers).then((inserted) => inserted.size)
  },
  reset() {
    calls.clear()
    punctuality.reset()
    resetUsage()
  },
  /** Calls to the database since the last reset, by what they were. */
  databaseCalls: () => Object.fromEntries(calls),
  punctuality: () => punctuality.report(),
  claimBy: (scanner: string) => punctuality.claimBy(scanner),
  usage,
  async stop() {
    await broker.stop()
  }
})
