import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { ConfigError, describeConfig, knownVariables, loadConfig, serviceNames } from '../../config.ts'

const key = Buffer.alloc(32, 7).toString('base64')
let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'longshore-config-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const load = (env: Record<string, string>) => loadConfig({ DATA_DIR: folder, ...env })
const shared = { TRANSPORTER: 'nats://nats:4222', MONGO_URL: 'mongodb://mongo/longshore', ENCRYPTION_KEY: key }

function refusal(env: Record<string, string>): string {
  try {
    load(env)
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError)
    const { message } = error as Error
    expect(message).not.toContain('\n')
    return message
  }
  throw new Error('the configuration was accepted')
}

describe('loadConfig', () => {
  test('an empty environment runs all services on embedded backends', () => {
    const config = load({})
    expect(config).toMatchObject({
      services: [...serviceNames],
      transporter: null,
      namespace: 'longshore',
      mongoUrl: null,
      s3: null,
      amqp: null,
      apiKeys: [],
      allowNetworks: [],
      denyNetworks: [],
      rateLimit: 600,
      api: { host: '127.0.0.1', port: 3000 },
      metricsPort: null,
      dataDir: folder,
      logLevel: 'info',
      failpoints: [],
      embedded: true
    })
  })

  test('failpoints are read, and a place that is none is refused with the places there are', () => {
    expect(load({ FAILPOINTS: 'after-claim=crash@2' }).failpoints).toMatchObject([{ name: 'after-claim', pass: 2 }])
    expect(refusal({ FAILPOINTS: 'nowhere=crash' })).toMatch(/^FAILPOINTS should be .*between-parts/)
  })

  test('a full environment is read whole', () => {
    const config = load({
      ...shared,
      SERVICES: 'api, scanner',
      S3_ENDPOINT: 'http://minio:9000/',
      S3_ACCESS_KEY: 'access',
      S3_SECRET_KEY: 'secret',
      S3_PUBLIC_URL: 'https://files.example.com/store/',
      AMQP_URL: 'amqp://user:pass@rabbit/vhost',
      AMQP_QUEUE: 'files',
      API_KEYS: 'ana:admin:a:b, bo:viewer:c',
      API_HOST: '0.0.0.0',
      API_PORT: '0',
      METRICS_PORT: '9100',
      ALLOW_NETWORKS: '10.0.0.0/8, fd00::/8 192.168.1.4',
      RATE_LIMIT: '0'
    })
    expect(config).toMatchObject({
      services: ['scanner', 'api'],
      embedded: false,
      s3: {
        endpoint: 'http://minio:9000',
        bucket: 'longshore',
        region: 'us-east-1',
        publicUrl: 'https://files.example.com/store'
      },
      amqp: {
        url: 'amqp://user:pass@rabbit/vhost',
        exchange: 'longshore',
        routingKey: 'file.uploaded',
        queue: 'files'
      },
      apiKeys: [
        { name: 'ana', role: 'admin', secret: 'a:b' },
        { name: 'bo', role: 'viewer', secret: 'c' }
      ],
      allowNetworks: ['10.0.0.0/8', 'fd00::/8', '192.168.1.4/32'],
      rateLimit: 0,
      api: { host: '0.0.0.0', port: 0 },
      metricsPort: 9100
    })
    expect(config.encryptionKey.toString('base64')).toBe(key)
  })

  test('the result is frozen all the way down', () => {
    const config = load({ API_KEYS: 'ana:admin:x' })
    expect(Object.isFrozen(config) && Object.isFrozen(config.api) && Object.isFrozen(config.apiKeys[0])).toBe(true)
  })

  test('an empty variable counts as absent', () => {
    expect(load({ MONGO_URL: '', SERVICES: '', METRICS_PORT: '', API_PORT: '' })).toMatchObject({
      mongoUrl: null,
      metricsPort: null,
      api: { port: 3000 }
    })
  })

  test('some services without a transporter are refused', () => {
    expect(refusal({ SERVICES: 'scanner,transfer' })).toMatch(
      /^SERVICES runs only some services, so TRANSPORTER must be set/
    )
    expect(load({ SERVICES: serviceNames.join(',') }).services).toHaveLength(7)
  })

  test('a transporter without a shared database is refused', () => {
    expect(refusal({ TRANSPORTER: 'nats://nats:4222' })).toMatch(/^MONGO_URL must be set when TRANSPORTER is/)
  })

  test('several machines never keep objects or announcements in folders of their own', () => {
    const s3 = { S3_ENDPOINT: 'http://s3', S3_ACCESS_KEY: 'a', S3_SECRET_KEY: 's' }
    const amqp = { AMQP_URL: 'amqp://mq' }
    expect(refusal({ ...shared, ...amqp })).toMatch(/^S3_ENDPOINT must be set when TRANSPORTER is/)
    expect(refusal({ ...shared, ...amqp, SERVICES: 'transfer' })).toMatch(/^S3_ENDPOINT must be set/)
    expect(refusal({ ...shared, ...s3 })).toMatch(/^AMQP_URL must be set when TRANSPORTER is/)
    expect(load({ ...shared, SERVICES: 'servers,files,scanner' }).s3).toBeNull()
    expect(load({ ...shared, ...s3, SERVICES: 'transfer' }).amqp).toBeNull()
    expect(load({ ...shared, ...s3, ...amqp }).services).toHaveLength(7)
  })

  test('a process without services needs neither a database nor keys', () => {
    const config = loadConfig({ TRANSPORTER: 'nats://nats:4222', API_HOST: '0.0.0.0' }, { withoutServices: true })
    expect(config).toMatchObject({ services: [], transporter: 'nats://nats:4222' })
  })

  test('an S3 store given in part names what is missing', () => {
    expect(refusal({ S3_ENDPOINT: 'http://minio:9000', S3_ACCESS_KEY: 'a' })).toMatch(/^S3_SECRET_KEY must be set/)
    expect(refusal({ S3_SECRET_KEY: 'a' })).toMatch(/^S3_ENDPOINT and S3_ACCESS_KEY must be set/)
  })

  test('API keys are required exactly where a host other than loopback serves the API', () => {
    expect(refusal({ API_HOST: '0.0.0.0' })).toMatch(
      /^API_KEYS must be set because API_HOST 0\.0\.0\.0 is not loopback/
    )
    for (const host of ['localhost', '127.8.0.1', '::1']) expect(load({ API_HOST: host }).apiKeys).toEqual([])
    expect(load({ ...shared, SERVICES: 'scanner', API_HOST: '0.0.0.0' }).services).toEqual(['scanner'])
  })

  test.each([
    ['SERVICES', 'scanner,copier', 'copier'],
    ['TRANSPORTER', 'redis://x', 'nats://'],
    ['NAMESPACE', 'a b', 'letters'],
    ['MONGO_URL', 'postgres://x', 'mongodb://'],
    ['S3_ENDPOINT', 'minio:9000', 'such as'],
    ['S3_ENDPOINT', 'http://minio:9000/path', 'such as'],
    ['S3_BUCKET', 'Big_Bucket', 'bucket name'],
    ['AMQP_URL', 'http://rabbit', 'amqp://'],
    ['ENCRYPTION_KEY', 'c2hvcnQ=', '32 random bytes'],
    ['ENCRYPTION_KEY', ` ${key.slice(0, -1)}!`, '32 random bytes'],
    ['API_KEYS', 'ana:root:hunter2', 'name:role:secret'],
    ['API_KEYS', 'ana:admin:hunter2,bo:viewer:hunter2', 'of its own'],
    ['ALLOW_NETWORKS', '10.0.0.0/33', '10.0.0.0/33'],
    ['DENY_NETWORKS', '10.1/16', 'such as 10.0.0.0/8'],
    ['DENY_NETWORKS', '010.0.0.0/8', 'such as 10.0.0.0/8'],
    ['RATE_LIMIT', '-1', 'whole number'],
    ['BANDWIDTH', '65535', 'at least 65536'],
    ['BANDWIDTH', '10M', 'bytes a second'],
    ['IN_FLIGHT_BYTES', '1', '16 MiB'],
    ['API_HOST', 'a b', 'listen'],
    ['API_PORT', '65536', 'port number'],
    ['METRICS_PORT', 'nine', 'port number'],
    ['LOG_LEVEL', 'loud', 'one of fatal, error, warn, info, debug, trace']
  ])('%s=%s is refused in one line that says what it should be', (name, value, should) => {
    const message = refusal({ [name]: value })
    expect(message.startsWith(`${name} should `)).toBe(true)
    expect(message).toContain(should)
    expect(message).not.toContain('hunter2')
  })

  test('no message shows a secret', () => {
    for (const name of ['TRANSPORTER', 'MONGO_URL', 'S3_ACCESS_KEY', 'AMQP_URL', 'ENCRYPTION_KEY', 'API_KEYS']) {
      expect(refusal({ [name]: 'hunter2 hunter2' })).not.toContain('hunter2')
    }
  })

  test('a secret may be in a file', () => {
    const path = join(folder, 'amqp')
    writeFileSync(path, 'amqp://user:pass@rabbit\n')
    expect(load({ AMQP_URL_FILE: path }).amqp?.url).toBe('amqp://user:pass@rabbit')
    expect(refusal({ AMQP_URL_FILE: path, AMQP_URL: 'amqp://rabbit' })).toMatch(
      /AMQP_URL and AMQP_URL_FILE are both set/
    )
    expect(refusal({ AMQP_URL_FILE: join(folder, 'missing') })).toMatch(/^AMQP_URL_FILE should be .*ENOENT/)
    writeFileSync(path, '\n')
    expect(refusal({ AMQP_URL_FILE: path })).toMatch(/^AMQP_URL_FILE .* is empty/)
  })

  test('the embedded key is made once, readable by its owner only', () => {
    const first = load({}).encryptionKey
    expect(first).toHaveLength(32)
    expect(load({}).encryptionKey.equals(first)).toBe(true)
    expect(statSync(join(folder, 'encryption.key')).mode & 0o777).toBe(0o600)
    expect(readFileSync(join(folder, 'encryption.key'), 'utf8').trim()).toBe(first.toString('base64'))
  })

  test('the draft of a key that a killed start left is removed, and not that of a start under way', () => {
    const [old, young] = [1, 2].map((pid) => join(folder, `encryption.key.${pid}.tmp`)) as [string, string]
    for (const path of [old, young]) writeFileSync(path, 'half')
    utimesSync(old, new Date(Date.now() - 61_000), new Date(Date.now() - 61_000))
    for (const attempt of ['the first start', 'another one']) {
      load({})
      expect([attempt, readdirSync(folder).sort()]).toEqual([attempt, ['encryption.key', 'encryption.key.2.tmp']])
      writeFileSync(old, 'half')
      utimesSync(old, new Date(Date.now() - 61_000), new Date(Date.now() - 61_000))
    }
  })

  test('a damaged embedded key stops the start instead of being replaced', () => {
    writeFileSync(join(folder, 'encryption.key'), 'half')
    expect(refusal({})).toMatch(/^ENCRYPTION_KEY is not set, and .*encryption\.key should hold 32 bytes/)
    expect(readFileSync(join(folder, 'encryption.key'), 'utf8')).toBe('half')
  })

  test('a shared database needs a key of its own', () => {
    expect(refusal({ MONGO_URL: 'mongodb://mongo/longshore' })).toMatch(/^ENCRYPTION_KEY must be set when MONGO_URL is/)
  })

  test('a data folder that cannot be made is named', () => {
    const file = join(folder, 'file')
    writeFileSync(file, '')
    expect(refusal({ DATA_DIR: join(file, 'data') })).toMatch(/^DATA_DIR should be a folder/)
    // Where a file system says of what it lets nobody make that it is not there.
    expect(refusal({ DATA_DIR: '/proc/none/data' })).toMatch(/^DATA_DIR should be a folder/)
  })
})

describe('the table of variables', () => {
  test('every secret has its file form, and nothing else does', () => {
    for (const { name, secret } of describeConfig()) expect(knownVariables.includes(`${name}_FILE`)).toBe(secret)
  })
})
