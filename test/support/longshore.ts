/** Longshore as its users run it: real processes of `main.ts` on real backends. */
import { randomBytes } from 'node:crypto'
import { realpath } from 'node:fs/promises'
import { resolve } from 'node:path'
import { type ServiceName, serviceNames } from '../../config.ts'
import { s3Store } from '../../drivers/store/s3.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import type { RunFolders } from './leftovers.ts'
import { type S3Server, startMinio } from './minio.ts'
import { type RunningMongo, startMongo } from './mongo.ts'
import { type NatsServer, startNats } from './nats.ts'
import { type NatsTap, tapNats } from './nats-tap.ts'
import { nodeOptions } from './node-options.ts'
import { type Sshd, type SshdOptions, startSshd } from './openssh.ts'
import { freePort } from './ports.ts'
import { type RunningProcess, START_MS, startProcess, temporaryFolder } from './process.ts'
import { type FaultyProxy, startProxy } from './proxy.ts'
import { type RabbitServer, startRabbit } from './rabbit.ts'
import { type RestClient, restClient } from './rest.ts'
import { type S3Proxy, startS3Proxy } from './s3-proxy.ts'
import { waitFor } from './wait.ts'

export { waitFor }

const program = resolve(import.meta.dirname, '../..')

/** What stands in front of the backends where the network's faults are part of a test. */
export interface Proxies {
  s3: S3Proxy
  amqp: FaultyProxy
  mongo: FaultyProxy
  /** Two, so that one half of the processes can be cut off from the other. */
  nats: [FaultyProxy, FaultyProxy]
}

export interface Backends {
  nats: NatsServer
  mongo: RunningMongo
  minio: S3Server
  rabbit: RabbitServer
  sshd: Sshd
  /** In front of the SFTP server, when asked for. */
  proxy: FaultyProxy | null
  /** In front of the others, when asked for; `env` leads through them, and through the first one to NATS. */
  proxies: Proxies | null
  /** The folder that the SFTP server serves, as the server itself names it. */
  root: string
  bucket: string
  /** What a consumer binds its queue to. */
  queue: { url: string; exchange: string; routingKey: string; queue: string }
  /** The environment of a process that uses all of these. */
  env: Record<string, string>
  /** What must be seen in no output, no answer, no database and on no network; Longshore's keys join it at its start. */
  canaries: string[]
  /** What crossed NATS and should not have. */
  tap: NatsTap
  /** The fields of a server that is this SFTP server. */
  server(more?: object): Record<string, unknown>
  stop(): Promise<void>
}

export interface BackendsOptions {
  /** `true`: the SFTP server is behind a proxy; `everything`: all are. */
  proxied?: boolean | 'everything'
  sshd?: SshdOptions
}

export async function startBackends(options: BackendsOptions = {}): Promise<Backends> {
  const stops: (() => Promise<void>)[] = []
  const stop = async () => {
    for (const one of stops.splice(0).reverse()) await one()
  }
  const kept = async <T extends { stop(): Promise<void> }>(starting: Promise<T>): Promise<T> => {
    const started = await starting
    stops.push(() => started.stop())
    return started
  }
  const all = [
    kept(startNats()),
    kept(startMongo()),
    kept(startMinio()),
    kept(startRabbit()),
    kept(startSshd(options.sshd))
  ] as const
  try {
    const [nats, mongo, minio, rabbit, sshd] = await Promise.all(all)
    const proxy = options.proxied ? await startProxy({ target: { host: '127.0.0.1', port: sshd.port } }) : null
    if (proxy) stops.push(() => proxy.close())
    const proxies = options.proxied === 'everything' ? await startProxies({ nats, mongo, minio, rabbit }, stops) : null
    const encryptionKey = randomBytes(32).toString('base64')
    const bucket = 'longshore-files'
    // A line from the middle of the private key, since a log might show it with other line ends.
    const canaries = [encryptionKey, minio.secretKey, sshd.privateKey.trim().split('\n')[2]!]
    const tap = await kept(tapNats(nats.url, () => canaries))
    const queue = { url: rabbit.url, exchange: 'longshore', routingKey: 'file.uploaded', queue: 'ingested' }
    return {
      nats,
      mongo,
      minio,
      rabbit,
      sshd,
      proxy,
      proxies,
      root: await realpath(sshd.root),
      bucket,
      queue,
      env: {
        TRANSPORTER: through(nats.url, proxies?.nats[0]),
        MONGO_URL: through(mongo.url, proxies?.mongo),
        S3_ENDPOINT: proxies?.s3.endpoint ?? minio.endpoint,
        S3_ACCESS_KEY: minio.accessKey,
        S3_SECRET_KEY: minio.secretKey,
        S3_BUCKET: bucket,
        AMQP_URL: through(queue.url, proxies?.amqp),
        AMQP_EXCHANGE: queue.exchange,
        AMQP_ROUTING_KEY: queue.routingKey,
        AMQP_QUEUE: queue.queue,
        ENCRYPTION_KEY: encryptionKey
      },
      canaries,
      tap,
      server: (more = {}) => ({
        name: 'partner',
        host: '127.0.0.1',
        port: proxy?.port ?? sshd.port,
        username: sshd.username,
        privateKey: sshd.privateKey,
        ...more
      }),
      stop
    }
  } catch (error) {
    await Promise.allSettled(all)
    await stop()
    throw error
  }
}

async function startProxies(
  { nats, mongo, minio, rabbit }: Pick<Backends, 'nats' | 'mongo' | 'minio' | 'rabbit'>,
  stops: (() => Promise<void>)[]
): Promise<Proxies> {
  const before = async (port: number) => {
    const proxy = await startProxy({ target: { host: '127.0.0.1', port } })
    stops.push(() => proxy.close())
    return proxy
  }
  const s3 = await startS3Proxy(minio.endpoint)
  stops.push(() => s3.close())
  return {
    s3,
    amqp: await before(rabbit.port),
    mongo: await before(Number(new URL(mongo.url).port)),
    nats: [await before(nats.port), await before(nats.port)]
  }
}

/** A listener to the output of a process, which tells once that one of the secrets was in it, however long ago. */
export function listenFor(secrets: () => readonly string[], found: () => void): (text: string) => void {
  let isFound = false
  return (text) => {
    if (isFound || !secrets().some((secret) => text.includes(secret))) return
    isFound = true
    found()
  }
}

/** The address with the proxy's port in place of the server's. */
export function through(url: string, proxy: { port: number } | undefined): string {
  return proxy ? url.replace(/:\d+(?=\/|$)/, `:${proxy.port}`) : url
}

/** The store itself, past every proxy; the caller closes it. */
export function directStore({ minio, bucket }: Pick<Backends, 'minio' | 'bucket'>): ObjectStore {
  const { endpoint, accessKey, secretKey } = minio
  return s3Store({ endpoint, accessKey, secretKey, bucket })
}

export interface LongshoreOptions {
  /** Absent: one process with all services on embedded backends. */
  backends?: Backends
  /** How many processes of each service; by default one of each. Embedded, all are in one process. */
  counts?: Partial<Record<ServiceName, number>>
  env?: Record<string, string>
  /** All services in one process, on real backends too. */
  isTogether?: boolean
  /** Resolves as soon as the processes run, ready or not. */
  isImpatient?: boolean
}

export interface LongshoreProcess extends RunningProcess {
  name: string
}

export interface Longshore {
  api: RestClient
  /** Those of before a restart are not among them; their output is. */
  readonly processes: readonly LongshoreProcess[]
  keys: { admin: string; operator: string; viewer: string }
  dataDir: string
  folders: RunFolders
  port: number
  /** Each a sentence: a process that ended though neither a test nor a failpoint ended it, a secret in an output. */
  readonly misconduct: readonly string[]
  /** What all processes have written, those that ended too. */
  output(): string
  /** One more process of a service; `env` is its alone. It runs, ready or not. */
  add(name: ServiceName, env?: Record<string, string>): Promise<LongshoreProcess>
  /** SIGTERM to all, and the same processes again on the same data. */
  restart(): Promise<void>
  stop(): Promise<void>
}

/** Starts the processes; ready when the API says so. */
export async function startLongshore(options: LongshoreOptions): Promise<Longshore> {
  const { backends, counts = {}, env = {} } = options
  const folder = await temporaryFolder('data')
  const ownTemporary = await temporaryFolder('temporary')
  const port = await freePort()
  const secret = () => randomBytes(18).toString('hex')
  const keys = { admin: secret(), operator: secret(), viewer: secret() }
  const common = {
    ...cleanEnvironment,
    DATA_DIR: folder.path,
    TMPDIR: ownTemporary.path,
    ALLOW_NETWORKS: '127.0.0.0/8',
    RATE_LIMIT: '0',
    API_PORT: String(port),
    API_KEYS: Object.entries(keys)
      .map(([role, key]) => `${role}:${role}:${key}`)
      .join(','),
    ...backends?.env,
    ...env
  }
  const api = restClient(() => `http://127.0.0.1:${port}`, keys.admin)
  const names =
    backends && !options.isTogether
      ? serviceNames.flatMap((name) => Array.from({ length: counts[name] ?? 1 }, () => name as string))
      : ['']
  backends?.canaries.push(...Object.values(keys))
  const misconduct: string[] = []
  let processes: LongshoreProcess[] = []
  let past = ''

  const add = async (name: string, own: Record<string, string> = {}) => {
    const started = await startProcess(process.execPath, [...nodeOptions, 'main.ts'], {
      cwd: program,
      env: { ...common, ...own, SERVICES: name },
      listen: listenFor(
        () => [...(backends?.canaries ?? []), ...Object.values(keys)],
        () => misconduct.push(`${name || 'all'} wrote a secret into its output`)
      )
    })
    let isAsked = false
    const { stop } = started
    const added = Object.assign(started, {
      name: name || 'all',
      stop: (how?: NodeJS.Signals) => {
        isAsked = true
        return stop(how)
      }
    })
    void started.exited.then(({ code, signal }) => {
      if (isAsked || signal === 'SIGKILL') return
      const last = started.output().trimEnd().split('\n').at(-1)
      misconduct.push(`${added.name} (${added.pid}) ended by itself with ${code ?? signal}: ${last}`)
    })
    processes.push(added)
    return added
  }
  const start = async () => {
    const begun = await Promise.all(names.map((name) => add(name)))
    if (options.isImpatient) return
    let ended: string | undefined
    for (const { name, exited } of begun) {
      void exited.then(({ code, signal }) => {
        ended ??= `${name} ended (${code ?? signal}) instead of starting`
      })
    }
    const isReady = async () => (await api.request('GET', '/health/ready', undefined, { key: null })).status === 200
    await waitFor<string | boolean>(() => ended ?? isReady(), {
      timeoutMs: START_MS,
      what: 'Longshore to be ready',
      explain: output
    })
    if (ended) throw new Error(`${ended}:\n${output()}`)
  }
  const output = () => past + processes.map((one) => `--- ${one.name} (${one.pid})\n${one.output()}`).join('\n')
  const end = async () => {
    await Promise.all(processes.map((one) => one.stop()))
    past = output()
    processes = []
  }
  const longshore: Longshore = {
    api,
    get processes() {
      return processes
    },
    keys,
    dataDir: folder.path,
    folders: { data: folder.path, temporary: ownTemporary.path },
    port,
    misconduct,
    output,
    add,
    async restart() {
      await end()
      await start()
    },
    async stop() {
      await end()
      await folder.remove()
      await ownTemporary.remove()
    }
  }
  try {
    await start()
    return longshore
  } catch (error) {
    await longshore.stop()
    throw error
  }
}

/** An empty variable counts as absent: what is set where the tests run is not for these processes. */
export const cleanEnvironment: Record<string, string> = Object.fromEntries(
  [
    ...['TRANSPORTER', 'MONGO_URL', 'S3_ENDPOINT', 'S3_ACCESS_KEY', 'S3_SECRET_KEY', 'S3_BUCKET', 'S3_REGION'],
    ...['S3_PUBLIC_URL', 'AMQP_URL', 'AMQP_EXCHANGE', 'AMQP_ROUTING_KEY', 'AMQP_QUEUE', 'ENCRYPTION_KEY', 'API_KEYS'],
    ...['ALLOW_NETWORKS', 'DENY_NETWORKS', 'RATE_LIMIT', 'API_HOST', 'API_PORT', 'METRICS_PORT', 'DATA_DIR'],
    ...['LOG_LEVEL', 'NAMESPACE', 'SERVICES', 'BANDWIDTH', 'IN_FLIGHT_BYTES', 'FAILPOINTS']
  ].map((name) => [name, ''])
)
