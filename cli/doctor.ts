/** `longshore doctor`: looks at the configuration and at every backend that it names, and says what to mend. */
import { access, constants, statfs } from 'node:fs/promises'
import { type Config, ConfigError, loadConfig } from '../config.ts'
import { openDatabase } from '../drivers/db/connection.ts'
import { mongoName } from '../drivers/db/mongo-address.ts'
import { networkName, tryNats } from '../drivers/network/nats.ts'
import { openQueue } from '../drivers/queue/open.ts'
import { nativeBindingFault } from '../drivers/sftp/native-binding.ts'
import { openStore } from '../drivers/store/open.ts'
import { bytes, visible } from './format.ts'

export interface Check {
  name: 'configuration' | 'binding' | 'folder' | 'database' | 'store' | 'queue' | 'network'
  /** `warned`: it works, and could be better. */
  state: 'ok' | 'warned' | 'failed'
  detail: string
}

const CHECK_MS = 15_000
const LITTLE_SPACE_BYTES = 1024 ** 3
/** No object has this name; asking for it tells whether the store, the bucket and the credentials are right. */
const PROBE_KEY = 'longshore-doctor'

/** Every check, in order; without a configuration only those that need none. What a start would make (the exchange, the embedded
 * folder) may be made here too. Secrets are masked. */
export async function doctor(env: NodeJS.ProcessEnv): Promise<Check[]> {
  const binding = nativeBindingFault()
  const checks: Check[] = [
    { name: 'binding', state: binding ? 'warned' : 'ok', detail: binding ?? "ssh2's native binding is loaded" }
  ]
  let config: Config
  try {
    config = loadConfig(env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return [{ name: 'configuration', state: 'failed', detail: error.message }, ...checks]
  }
  const services = config.services.length === 7 ? 'all services' : config.services.join(', ')
  checks.unshift({ name: 'configuration', state: 'ok', detail: `can be read; this process would run ${services}` })
  const backends = await Promise.all([
    check('folder', `DATA_DIR ${config.dataDir}`, () => checkFolder(config)),
    check('database', config.mongoUrl ? mongoName(config.mongoUrl) : 'the embedded database', () =>
      checkDatabase(config)
    ),
    check('store', config.s3?.endpoint ?? 'the folder', () => checkStore(config)),
    check('queue', config.amqp ? `RabbitMQ at ${new URL(config.amqp.url).host}` : 'the journal', () =>
      checkQueue(config)
    ),
    check('network', config.transporter ? networkName(config.transporter) : 'the network', () => checkNetwork(config))
  ])
  return [...checks, ...backends].map((one) => ({ ...one, detail: masked(one.detail, config) }))
}

export function doctorTable(checks: Check[]): string {
  const signs = { ok: 'ok     ', warned: 'warning', failed: 'FAILED ' }
  return checks.map(({ name, state, detail }) => `${signs[state]}  ${name.padEnd(13)}  ${visible(detail)}`).join('\n')
}

/** `what`: is looked at, with its address. */
async function check(
  name: Check['name'],
  what: string,
  look: () => Promise<string | Omit<Check, 'name'>>
): Promise<Check> {
  const timer: { id?: NodeJS.Timeout } = {}
  const late = new Promise<never>((_, reject) => {
    timer.id = setTimeout(() => reject(new Error(`${what}: no answer within ${CHECK_MS / 1000} s`)), CHECK_MS)
  })
  try {
    const found = await Promise.race([look(), late])
    return { name, ...(typeof found === 'string' ? { state: 'ok', detail: found } : found) }
  } catch (error) {
    return { name, state: 'failed', detail: (error as Error).message }
  } finally {
    clearTimeout(timer.id)
  }
}

async function checkFolder({ dataDir, mongoUrl, s3, amqp }: Config) {
  if (mongoUrl && s3 && amqp) return 'not needed: every backend is a server'
  try {
    await access(dataDir, constants.R_OK | constants.W_OK)
  } catch (error) {
    throw new Error(
      `DATA_DIR ${dataDir} cannot be used (${(error as { code?: string }).code}): make it, or let this user write there`
    )
  }
  const { bavail, bsize } = await statfs(dataDir)
  const free = bavail * bsize
  if (free >= LITTLE_SPACE_BYTES) return `${dataDir} can be written to; ${bytes(free)} are free`
  return { state: 'warned' as const, detail: `${dataDir} has only ${bytes(free)} free: make room, or set DATA_DIR` }
}

async function checkDatabase(config: Config): Promise<string> {
  try {
    const database = await openDatabase(config)
    try {
      await database.ping()
    } finally {
      await database.close()
    }
  } catch (error) {
    // A running Longshore holds the folder; it has looked at it itself.
    if (config.mongoUrl === null && (error as { type?: string }).type === 'CONFLICT') {
      return `embedded, in use by a running Longshore`
    }
    if (config.mongoUrl === null) throw error
    throw new Error(
      `${mongoName(config.mongoUrl)}: ${(error as Error).message}; check MONGO_URL, its user and password, and that MongoDB runs`
    )
  }
  return config.mongoUrl === null ? 'embedded, and nobody uses it' : `${mongoName(config.mongoUrl)} answers`
}

async function checkStore(config: Config) {
  if (config.s3 === null) return 'plain files in the folder'
  const { endpoint, bucket } = config.s3
  const store = openStore(config)
  try {
    await store.listUploads(PROBE_KEY)
    return `${endpoint} answers, and the bucket ${bucket} may be used`
  } catch (error) {
    const { message, data } = error as { message: string; data?: { code?: string } }
    if (data?.code === 'NoSuchBucket') {
      return { state: 'warned' as const, detail: `${endpoint} has no bucket ${bucket} yet: it is made at the start` }
    }
    throw new Error(`${endpoint}: ${message}; check S3_ENDPOINT, S3_ACCESS_KEY, S3_SECRET_KEY, S3_BUCKET and S3_REGION`)
  } finally {
    await store.close()
  }
}

async function checkQueue(config: Config): Promise<string> {
  if (config.amqp === null) return 'lines of a file in the folder'
  const queue = openQueue(config, { info: () => {}, warn: () => {} })
  try {
    await queue.open()
    await queue.ping()
    return `RabbitMQ answers, and the exchange ${config.amqp.exchange} is there`
  } catch (error) {
    throw new Error(
      `${(error as Error).message}; check AMQP_URL, its user, password and virtual host, and that RabbitMQ runs`
    )
  } finally {
    await queue.close()
  }
}

async function checkNetwork({ transporter }: Config): Promise<string> {
  if (transporter === null) return 'one process alone'
  await tryNats(transporter)
  return `${networkName(transporter)} answers`
}

/** Libraries repeat addresses with their passwords, and keys, in their messages. */
function masked(text: string, config: Config): string {
  const addresses = [config.mongoUrl, config.transporter, config.amqp?.url].filter((one) => one != null)
  const passwords = addresses.flatMap((one) => [...one.matchAll(/\/\/[^/@]*?:([^@/]+)@/g)].map(([, found]) => found!))
  const keys = [config.s3?.secretKey, config.encryptionKey.toString('base64')]
  const secrets = [
    ...passwords,
    ...passwords.map(decodeURIComponent),
    ...keys,
    ...config.apiKeys.map((key) => key.secret)
  ]
  return secrets.filter(Boolean).reduce<string>((shown, secret) => shown.replaceAll(secret!, '***'), text)
}
