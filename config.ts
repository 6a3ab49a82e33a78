/**
 * The environment, read once into one frozen, validated object. Nothing else reads `process.env`.
 *
 * Every variable is a row of `variables`: the program's checks, the reference table in the docs and the test of
 * docker-compose.yml all come from these rows. An empty variable counts as absent, because Compose passes an unset one
 * on as an empty string. A message never shows the value of a secret.
 */
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync
} from 'node:fs'
import { isIP } from 'node:net'
import { join, resolve } from 'node:path'
import ipaddr from 'ipaddr.js'
import { z } from 'zod'
import { type Failpoint, failpointNames, parseFailpoints } from './drivers/failpoint.ts'
import { makeFolders } from './drivers/folder.ts'

export const serviceNames = ['servers', 'files', 'scanner', 'transfer', 'storage', 'notifier', 'api'] as const
export type ServiceName = (typeof serviceNames)[number]

export const roles = ['viewer', 'operator', 'admin'] as const
export type Role = (typeof roles)[number]

export interface ApiKey {
  name: string
  role: Role
  secret: string
}

export interface Config {
  /** Which services this process runs. */
  services: ServiceName[]
  transporter: string | null
  namespace: string
  mongoUrl: string | null
  s3: {
    endpoint: string
    accessKey: string
    secretKey: string
    bucket: string
    region: string
    /** The address that consumers see, without a slash at its end. */
    publicUrl: string
  } | null
  amqp: { url: string; exchange: string; routingKey: string; queue: string | null } | null
  /** 32 bytes; empty only for a process without services. */
  encryptionKey: Buffer
  apiKeys: ApiKey[]
  /** CIDR notation, each with its prefix length. */
  allowNetworks: string[]
  denyNetworks: string[]
  /** Requests a minute and client; 0 is no limit. */
  rateLimit: number
  api: { host: string; port: number }
  /** null: no metrics server of its own. */
  metricsPort: number | null
  /** Of files in this process's memory, over all servers. */
  inFlightBytes: number
  /** Bytes a second that this process reads from all servers together; null: no limit. */
  bandwidth: number | null
  /** Absolute. */
  dataDir: string
  logLevel: string
  /** Empty but in tests. */
  failpoints: Failpoint[]
  /** True without MONGO_URL: records are NeDB files under `dataDir`, and only one process may use them. */
  embedded: boolean
}

/** A wrong or missing variable; the message is one line that names it and says what it should be. */
export class ConfigError extends Error {
  readonly variable: string

  constructor(variable: string, message: string) {
    super(message.replaceAll(/\s+/g, ' '))
    this.name = 'ConfigError'
    this.variable = variable
  }
}

const words = (value: string) => value.split(/[\s,]+/).filter((word) => word !== '')

const port = z
  .string()
  .regex(/^\d{1,5}$/, 'should be a port number from 0 to 65535')
  .transform(Number)
  .refine((value) => value <= 65_535, 'should be a port number from 0 to 65535')

function address(schemes: string[], should: string, isAllowed: (url: URL) => boolean = () => true) {
  const isRight = (value: string) => {
    if (!URL.canParse(value)) return false
    const url = new URL(value)
    return schemes.includes(url.protocol) && url.hostname !== '' && isAllowed(url)
  }
  return z.string().refine(isRight, should)
}

/** Addresses of several hosts (`nats://a,b`, a MongoDB replica set) are no URLs, so only their beginning is checked. */
const hostList = (schemes: string, should: string) =>
  z.string().regex(new RegExp(`^(${schemes})://[^\\s/]+\\S*$`), should)

const httpAddress = (example: string, isAllowed: (url: URL) => boolean) =>
  address(
    ['http:', 'https:'],
    `should be an address such as ${example}, without a user, a query or a fragment`,
    (url) => {
      return url.username === '' && url.password === '' && url.search === '' && url.hash === '' && isAllowed(url)
    }
  ).transform((value) => value.replace(/\/+$/, ''))

const networks = z.string().transform((value, context) =>
  words(value).map((word) => {
    const network = networkOf(word)
    if (network === null) {
      const message = `should be a comma-separated list of networks such as 10.0.0.0/8,fd00::/8, and “${word}” is none`
      context.addIssue({ code: 'custom', message })
    }
    return network ?? word
  })
)

function networkOf(word: string): string | null {
  const [host = '', prefix, ...rest] = word.split('/')
  // ipaddr.js alone would also take `10.1` and octal `010.0.0.1`, which mean something else to their writers.
  const family = isIP(host)
  if (family === 0 || rest.length > 0) return null
  const cidr = `${host}/${prefix ?? (family === 4 ? 32 : 128)}`
  return ipaddr.isValidCIDR(cidr) ? cidr : null
}

const services = z.string().transform((value, context): ServiceName[] => {
  for (const word of words(value)) {
    if (!(serviceNames as readonly string[]).includes(word)) {
      const message = `should be a comma-separated list of ${serviceNames.join(', ')}, and “${word}” is none of them`
      context.addIssue({ code: 'custom', message })
    }
  }
  const named = serviceNames.filter((name) => words(value).includes(name))
  if (named.length === 0) context.addIssue({ code: 'custom', message: `should name one of ${serviceNames.join(', ')}` })
  return named
})

const apiKeyForm = 'should be a comma-separated list of name:role:secret, with a role of viewer, operator or admin'

const apiKeys = z.string().transform((value, context): ApiKey[] => {
  const keys: ApiKey[] = []
  for (const [index, entry] of value.split(',').entries()) {
    if (entry.trim() === '') continue
    const match = /^([^:\s]+):(viewer|operator|admin):(\S+)$/.exec(entry.trim())
    if (match === null) {
      context.addIssue({ code: 'custom', message: `${apiKeyForm}; entry ${index + 1} has another form` })
      return z.NEVER
    }
    const key: ApiKey = { name: match[1]!, role: match[2] as Role, secret: match[3]! }
    if (keys.some((other) => other.name === key.name || other.secret === key.secret)) {
      const message = `should give each key a name and a secret of its own; entry ${index + 1} repeats one`
      context.addIssue({ code: 'custom', message })
      return z.NEVER
    }
    keys.push(key)
  }
  return keys
})

/** Strict, because Node's decoder skips what it does not know and would take a mistyped key for a shorter one. */
function parseKey(value: string): Buffer | null {
  const key = Buffer.from(value, 'base64')
  return key.length === 32 && key.toString('base64') === value ? key : null
}

const encryptionKey = z.string().transform((value, context) => {
  const key = parseKey(value)
  if (key !== null) return key
  context.addIssue({ code: 'custom', message: 'should be 32 random bytes in base64: openssl rand -base64 32' })
  return z.NEVER
})

const text = (form: RegExp, should: string) => z.string().regex(form, should)
const shortText = text(/^[\x21-\x7e]{1,255}$/, 'should be 1 to 255 printable characters without a space')

const byteCount = (least: number, should: string) =>
  text(/^\d{1,15}$/, should)
    .transform(Number)
    .refine((value) => value >= least, should)

interface Row<Schema extends z.ZodType> {
  schema: Schema
  meaning: string
  default: string | null
  /** Never shown, and may be given as a file by `NAME_FILE`. */
  secret: boolean
}

function row<Schema extends z.ZodType>(meaning: string, schema: Schema, initial: string | null = null): Row<Schema> {
  return { schema, meaning, default: initial, secret: false }
}

function secret<Schema extends z.ZodType>(meaning: string, schema: Schema): Row<Schema> {
  return { schema, meaning, default: null, secret: true }
}

const failpoints = z.string().transform((value, context): Failpoint[] => {
  const points = parseFailpoints(value)
  if (points !== null) return points
  const message = `should be place=crash, place=error or place=pause:ms, each with @n for the n-th pass, comma-separated; places are ${failpointNames.join(', ')}`
  context.addIssue({ code: 'custom', message })
  return z.NEVER
})

const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const

const variables = {
  SERVICES: row('The services that this process runs, comma-separated; absent: all seven', services),
  TRANSPORTER: secret(
    'Where the processes meet; absent: one process only',
    hostList('nats|tls', 'should be an address such as nats://host:4222 or tls://host:4222')
  ),
  NAMESPACE: row(
    'Keeps several installations on one NATS apart',
    text(/^[A-Za-z0-9_-]{1,64}$/, 'should be 1 to 64 letters, digits, “-” or “_”'),
    'longshore'
  ),
  MONGO_URL: secret(
    'The database; absent: NeDB files under DATA_DIR',
    hostList('mongodb|mongodb\\+srv', 'should be an address such as mongodb://host:27017/longshore')
  ),
  S3_ENDPOINT: row(
    'MinIO or any S3; absent: plain files under DATA_DIR/objects',
    httpAddress('https://s3.example.com', (url) => url.pathname === '/')
  ),
  S3_ACCESS_KEY: secret('The access key for S3_ENDPOINT', shortText),
  S3_SECRET_KEY: secret('The secret key for S3_ENDPOINT', shortText),
  S3_BUCKET: row(
    'The bucket; made at start when it is missing',
    text(
      /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/,
      'should be a bucket name: 3 to 63 lower-case letters, digits, “.” or “-”'
    ),
    'longshore'
  ),
  S3_REGION: row('The region that requests are signed for', shortText, 'us-east-1'),
  S3_PUBLIC_URL: row(
    'The address of the store that consumers see; absent: S3_ENDPOINT',
    httpAddress('https://files.example.com', () => true)
  ),
  AMQP_URL: secret(
    'RabbitMQ; absent: announcements are lines of DATA_DIR/notifications.ndjson',
    address(['amqp:', 'amqps:'], 'should be an address such as amqp://user:password@host:5672/vhost')
  ),
  AMQP_EXCHANGE: row('The durable topic exchange, declared at start', shortText, 'longshore'),
  AMQP_ROUTING_KEY: row('The routing key of every announcement', shortText, 'file.uploaded'),
  AMQP_QUEUE: row(
    'A durable queue to declare and bind too, so that nothing is unroutable before the first consumer',
    shortText
  ),
  ENCRYPTION_KEY: secret(
    '32 bytes in base64 that encrypt SFTP credentials at rest; required with MONGO_URL, else made in DATA_DIR',
    encryptionKey
  ),
  API_KEYS: secret(
    'name:role:secret,… with role viewer, operator or admin; required unless API_HOST is loopback',
    apiKeys
  ),
  ALLOW_NETWORKS: row('Networks (CIDR) that SFTP servers may be in besides public addresses', networks),
  DENY_NETWORKS: row('Networks (CIDR) that SFTP servers may not be in', networks),
  RATE_LIMIT: row(
    'Requests a minute and client; 0 turns the limit off',
    text(/^\d{1,9}$/, 'should be a whole number of requests a minute, or 0 for no limit').transform(Number),
    '600'
  ),
  API_HOST: row(
    'The address that the API listens on',
    text(/^[A-Za-z0-9.:_-]{1,253}$/, 'should be an address or a host name to listen on, such as 127.0.0.1 or 0.0.0.0'),
    '127.0.0.1'
  ),
  API_PORT: row('The port of the API; 0 picks a free one and logs it', port, '3000'),
  METRICS_PORT: row('The port of /metrics and /health on a process without api; absent: none', port),
  BANDWIDTH: row(
    'Bytes a second that this process reads from all servers together, at least 65536; absent: no limit',
    byteCount(64 * 1024, 'should be a whole number of bytes a second, at least 65536 (64 KiB)')
  ),
  IN_FLIGHT_BYTES: row(
    'Bytes of files that this process holds in memory at most, over all servers; at least 16777216 (16 MiB)',
    byteCount(16 * 1024 ** 2, 'should be a whole number of bytes, at least 16777216 (16 MiB)'),
    String(80 * 1024 ** 2)
  ),
  DATA_DIR: row('The folder of the embedded backends', z.string(), './data'),
  LOG_LEVEL: row('How much is logged', z.enum(logLevels, `should be one of ${logLevels.join(', ')}`), 'info'),
  FAILPOINTS: row('For tests of Longshore itself: where a process kills itself, fails or pauses', failpoints)
}

type Name = keyof typeof variables
type Values = { [N in Name]: z.output<(typeof variables)[N]['schema']> | null }

/** Every variable's name, those of the `NAME_FILE` form among them. */
export const knownVariables: string[] = Object.entries(variables).flatMap(([name, { secret: hasFile }]) =>
  hasFile ? [name, `${name}_FILE`] : [name]
)

/** The reference table of the environment, for the docs. */
export function describeConfig(): { name: string; meaning: string; default: string | null; secret: boolean }[] {
  return Object.entries(variables).map(([name, { meaning, default: initial, secret: isSecret }]) => {
    return { name, meaning, default: initial, secret: isSecret }
  })
}

/**
 * Reads the environment, or throws the ConfigError of the first variable that is wrong or missing. Embedded, the first
 * call makes `DATA_DIR/encryption.key`. `withoutServices` is for a process that only joins the others (the console with
 * a TRANSPORTER): it needs no backend and no key, and its `services` are empty.
 */
export function loadConfig(env: NodeJS.ProcessEnv, options: { withoutServices?: boolean } = {}): Config {
  const values = readAll(env)
  const isAlone = values.TRANSPORTER === null
  const running = options.withoutServices ? [] : (values.SERVICES ?? [...serviceNames])
  if (values.SERVICES !== null) requireServices(values.SERVICES, isAlone)
  const s3 = s3Of(values)
  const amqp = amqpOf(values)
  if (!options.withoutServices) requireShared(values)
  if (values.TRANSPORTER !== null) requireReachable(running, s3, amqp)
  const host = values.API_HOST!
  if (running.includes('api') && !isLoopback(host) && !values.API_KEYS?.length) {
    throw new ConfigError('API_KEYS', `API_KEYS must be set because API_HOST ${host} is not loopback: it ${apiKeyForm}`)
  }
  const dataDir = resolve(values.DATA_DIR!)
  const embedded = values.MONGO_URL === null
  return deepFreeze({
    services: running,
    transporter: values.TRANSPORTER,
    namespace: values.NAMESPACE!,
    mongoUrl: values.MONGO_URL,
    s3,
    amqp,
    encryptionKey: values.ENCRYPTION_KEY ?? (options.withoutServices ? Buffer.alloc(0) : embeddedKey(dataDir)),
    apiKeys: values.API_KEYS ?? [],
    allowNetworks: values.ALLOW_NETWORKS ?? [],
    denyNetworks: values.DENY_NETWORKS ?? [],
    rateLimit: values.RATE_LIMIT!,
    api: { host, port: values.API_PORT! },
    metricsPort: values.METRICS_PORT,
    inFlightBytes: values.IN_FLIGHT_BYTES!,
    bandwidth: values.BANDWIDTH,
    dataDir,
    logLevel: values.LOG_LEVEL!,
    failpoints: values.FAILPOINTS ?? [],
    embedded
  })
}

function readAll(env: NodeJS.ProcessEnv): Values {
  const values: Record<string, unknown> = {}
  for (const [name, definition] of Object.entries(variables)) {
    const given = definition.secret ? secretOf(env, name) : env[name]?.trim()
    const value = given || definition.default
    if (value === null) {
      values[name] = null
      continue
    }
    const parsed = definition.schema.safeParse(value)
    if (!parsed.success) {
      const shown =
        definition.secret || parsed.error.issues[0]!.message.includes('“') ? '' : `, not “${value.slice(0, 100)}”`
      throw new ConfigError(name, `${name} ${parsed.error.issues[0]!.message}${shown}`)
    }
    values[name] = parsed.data
  }
  return values as Values
}

function secretOf(env: NodeJS.ProcessEnv, name: string): string | undefined {
  const file = env[`${name}_FILE`]?.trim()
  if (!file) return env[name]?.trim()
  if (env[name]?.trim())
    throw new ConfigError(name, `${name} and ${name}_FILE are both set: only one of them should be`)
  let value: string
  try {
    value = readFileSync(file, 'utf8').trim()
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code
    throw new ConfigError(
      `${name}_FILE`,
      `${name}_FILE should be the path of a readable file, and ${file} is not (${reason})`
    )
  }
  if (value === '')
    throw new ConfigError(
      `${name}_FILE`,
      `${name}_FILE should be the path of a file that holds the value, and ${file} is empty`
    )
  return value
}

function requireServices(named: ServiceName[], isAlone: boolean) {
  if (!isAlone || named.length === serviceNames.length) return
  const message =
    'SERVICES runs only some services, so TRANSPORTER must be set to the NATS address where the others are, such as nats://host:4222'
  throw new ConfigError('TRANSPORTER', message)
}

function requireShared({ TRANSPORTER, MONGO_URL, ENCRYPTION_KEY }: Values) {
  if (TRANSPORTER !== null && MONGO_URL === null) {
    const message =
      'MONGO_URL must be set when TRANSPORTER is, such as mongodb://host:27017/longshore: several processes cannot share the embedded database'
    throw new ConfigError('MONGO_URL', message)
  }
  if (MONGO_URL !== null && ENCRYPTION_KEY === null) {
    const message = 'ENCRYPTION_KEY must be set when MONGO_URL is: 32 random bytes in base64 (openssl rand -base64 32)'
    throw new ConfigError('ENCRYPTION_KEY', message)
  }
}

/** With a folder of its own each machine would keep its own part of the objects and announcements, and nobody notice. */
function requireReachable(running: ServiceName[], s3: Config['s3'], amqp: Config['amqp']) {
  if (s3 === null && (running.includes('transfer') || running.includes('storage'))) {
    const message =
      'S3_ENDPOINT must be set when TRANSPORTER is, for transfer and storage: each machine would put objects into a folder of its own'
    throw new ConfigError('S3_ENDPOINT', message)
  }
  if (amqp === null && running.includes('notifier')) {
    const message =
      'AMQP_URL must be set when TRANSPORTER is, for notifier: each machine would write announcements into a file of its own'
    throw new ConfigError('AMQP_URL', message)
  }
}

/** A default is no sign that the variable was given, so S3_BUCKET and S3_REGION alone do not ask for a store. */
function s3Of(values: Values): Config['s3'] {
  const needed = ['S3_ENDPOINT', 'S3_ACCESS_KEY', 'S3_SECRET_KEY'] as const
  const missing = needed.filter((name) => values[name] === null)
  if (missing.length === needed.length && values.S3_PUBLIC_URL === null) return null
  if (missing.length > 0) {
    const message = `${missing.join(' and ')} must be set too: an S3 store needs S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY`
    throw new ConfigError(missing[0]!, message)
  }
  return {
    endpoint: values.S3_ENDPOINT!,
    accessKey: values.S3_ACCESS_KEY!,
    secretKey: values.S3_SECRET_KEY!,
    bucket: values.S3_BUCKET!,
    region: values.S3_REGION!,
    publicUrl: values.S3_PUBLIC_URL ?? values.S3_ENDPOINT!
  }
}

function amqpOf(values: Values): Config['amqp'] {
  if (values.AMQP_URL !== null) {
    const { AMQP_URL: url, AMQP_EXCHANGE: exchange, AMQP_ROUTING_KEY: routingKey, AMQP_QUEUE: queue } = values
    return { url, exchange: exchange!, routingKey: routingKey!, queue }
  }
  if (values.AMQP_QUEUE === null) return null
  const message = 'AMQP_URL must be set when AMQP_QUEUE is, such as amqp://user:password@host:5672/vhost'
  throw new ConfigError('AMQP_URL', message)
}

function isLoopback(host: string): boolean {
  if (host === 'localhost') return true
  return ipaddr.isValid(host) && ipaddr.process(host).range() === 'loopback'
}

/** Longer than a start takes to write 45 bytes and link them. */
const DRAFT_MS = 60_000

/** The key of an embedded installation. A link appears whole or not at all, and only one of two first starts makes it. */
function embeddedKey(dataDir: string): Buffer {
  const path = join(dataDir, 'encryption.key')
  const draft = `${path}.${process.pid}.tmp`
  try {
    const present = readKey(path)
    if (present === null) makeFolders(dataDir, 0o700)
    removeDrafts(dataDir)
    if (present !== null) return present
    rmSync(draft, { force: true })
    const descriptor = openSync(draft, 'wx', 0o600)
    try {
      writeSync(descriptor, `${randomBytes(32).toString('base64')}\n`)
      fsyncSync(descriptor)
    } finally {
      closeSync(descriptor)
    }
    try {
      linkSync(draft, path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    } finally {
      rmSync(draft, { force: true })
    }
    return readKey(path)!
  } catch (error) {
    if (error instanceof ConfigError) throw error
    const reason = (error as NodeJS.ErrnoException).code
    throw new ConfigError(
      'DATA_DIR',
      `DATA_DIR should be a folder that this process may write to, and ${dataDir} is not (${reason})`
    )
  }
}

/** Those of first starts that were killed; a young one may belong to a start that is under way. */
function removeDrafts(dataDir: string): void {
  for (const name of readdirSync(dataDir)) {
    if (!/^encryption\.key\.\d+\.tmp$/.test(name)) continue
    const path = join(dataDir, name)
    const draft = statSync(path, { throwIfNoEntry: false })
    if (draft && draft.mtimeMs < Date.now() - DRAFT_MS) rmSync(path, { force: true })
  }
}

function readKey(path: string): Buffer | null {
  let value: string
  try {
    value = readFileSync(path, 'utf8').trim()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
  const key = parseKey(value)
  if (key !== null) return key
  const message = `ENCRYPTION_KEY is not set, and ${path} should hold 32 bytes in base64 but does not: put its backup back`
  throw new ConfigError('ENCRYPTION_KEY', message)
}

function deepFreeze(config: Config): Config {
  for (const value of Object.values(config)) {
    // A buffer's elements cannot be frozen.
    if (value === null || typeof value !== 'object' || Buffer.isBuffer(value)) continue
    for (const item of Object.values(value)) if (typeof item === 'object') Object.freeze(item)
    Object.freeze(value)
  }
  return Object.freeze(config)
}
