/** One simulated process: the real services on a real Moleculer broker, with the drivers of the simulation. */
import { Loggers, Service, ServiceBroker, type ServiceSchema, Validators } from 'moleculer'
import type { Config, ServiceName } from '../../config.ts'
import { stopNode } from '../../node.ts'
import { filesService } from '../../services/files.service.ts'
import { notifierService } from '../../services/notifier.service.ts'
import { scannerService } from '../../services/scanner.service.ts'
import { serversService } from '../../services/servers.service.ts'
import { storageService } from '../../services/storage.service.ts'
import { transferService } from '../../services/transfer.service.ts'
import { RUNNING_CALLS_MS } from '../../stop-budget.ts'
import type { SimulatedDatabase } from './database.ts'
import type { Network } from './network.ts'
import type { SimulatedQueue } from './queue.ts'
import type { SftpServers } from './sftp.ts'
import type { SimulatedStore } from './store.ts'
import { as } from './timeline.ts'
import type { Life, World } from './world.ts'

export interface Backends {
  world: World
  network: Network
  database: SimulatedDatabase
  store: SimulatedStore
  queue: SimulatedQueue
  sftp: SftpServers
}

export const config: Config = {
  services: [],
  transporter: 'simulated',
  namespace: '',
  mongoUrl: 'simulated',
  s3: null,
  amqp: null,
  encryptionKey: Buffer.alloc(32, 5),
  apiKeys: [],
  allowNetworks: [],
  denyNetworks: [],
  rateLimit: 0,
  api: { host: '127.0.0.1', port: 0 },
  metricsPort: null,
  inFlightBytes: 80 * 1024 ** 2,
  bandwidth: null,
  dataDir: '/nowhere',
  logLevel: 'warn',
  failpoints: [],
  embedded: false
}

const factories: Partial<Record<ServiceName, (config: Config) => ServiceSchema>> = {
  servers: serversService,
  files: filesService,
  scanner: scannerService,
  transfer: transferService,
  storage: storageService,
  notifier: notifierService
}

/** Compiled once for the whole run: a process is started many times. */
const checks = new Map<string, unknown>()

class OnceCompiled extends Validators.Fastest {
  override compile(schema: never): never {
    const key = JSON.stringify(schema, (_, value) => (typeof value === 'function' ? String(value) : value))
    const check = checks.get(key) ?? super.compile(schema)
    checks.set(key, check)
    return check as never
  }
}

/** By broker: what its services open instead of the real drivers. */
const drivers = new WeakMap<ServiceBroker, Record<string, (...args: never[]) => unknown>>()
const schemas = new Map<ServiceName, ServiceSchema>()

/** Merged once for the whole run, which costs more than all else of a start. */
function schemaOf(name: ServiceName): ServiceSchema {
  const known = schemas.get(name) ?? mergedSchema(name)
  schemas.set(name, known)
  return { ...known, settings: { ...known.settings } }
}

function mergedSchema(name: ServiceName): ServiceSchema {
  const service = factories[name]!(config)
  const names = ['openDatabase', 'openStore', 'openQueue', 'openSftp'].filter((one) => service.methods?.[one])
  const methods = Object.fromEntries(
    names.map((one) => [
      one,
      function open(this: Service, ...args: never[]) {
        return drivers.get(this.broker)![one]!(...args)
      }
    ])
  )
  const merge = Service.prototype.applyMixins.bind(Object.create(Service.prototype))
  return merge({ name, mixins: [service], methods }) as ServiceSchema
}

class WorldLog extends Loggers.Base<object> {
  readonly #world: World
  readonly #name: string

  constructor(world: World, name: string) {
    super({ level: 'info' })
    this.#world = world
    this.#name = name
  }

  override getLogHandler(): never {
    const write = (type: string, args: unknown[]) => {
      if (type === 'debug' || type === 'trace' || (type === 'info' && !this.#world.trace)) return
      const text = args.map((one) => (one instanceof Error ? one.stack : String(one))).join(' ')
      this.#world.log.push(text)
      this.#world.note(() => `${this.#name} logs ${type} ${text}`)
    }
    return write as never
  }
}

export function createProcess(life: Life, services: readonly ServiceName[], backends: Backends): ServiceBroker {
  const { network, database, store, queue, sftp, world } = backends
  return as(life, () => {
    const broker = new ServiceBroker({
      nodeID: life.name,
      logger: new WorldLog(world, life.name) as never,
      transporter: null,
      requestTimeout: 5_000,
      retryPolicy: { enabled: false },
      registry: { strategy: 'RoundRobin', preferLocal: true },
      transit: { serviceChangedDebounceTime: 0 } as never,
      tracking: { enabled: true, shutdownTimeout: RUNNING_CALLS_MS },
      contextParamsCloning: false,
      validator: new OnceCompiled() as never,
      metrics: false,
      skipProcessEventRegistration: true,
      internalServices: false,
      middlewares: [network.middleware(life)]
    })
    network.join(life, broker)
    drivers.set(broker, {
      openDatabase: async () => database.open(life),
      openStore: () => store.open(life),
      openQueue: () => queue.open(life),
      openSftp: sftp.open(life)
    })
    for (const name of services) broker.createService(schemaOf(name))
    return broker
  })
}

/** As SIGTERM does it. */
export function stopProcess(life: Life, broker: ServiceBroker): Promise<void> {
  return as(life, () => stopNode(broker))
}
