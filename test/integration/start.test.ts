import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { cleanEnvironment, type Longshore, startLongshore } from '../support/longshore.ts'
import { temporaryFolder } from '../support/process.ts'

const program = resolve(import.meta.dirname, '../..')
let folder: Awaited<ReturnType<typeof temporaryFolder>>

beforeAll(async () => {
  folder = await temporaryFolder('start')
})
afterAll(() => folder?.remove())

/** Runs `main.ts` to its end. */
async function run(env: Record<string, string>): Promise<{ code: number | null; lines: string[] }> {
  const child = spawn(process.execPath, ['main.ts'], {
    cwd: program,
    env: { ...process.env, ...cleanEnvironment, DATA_DIR: join(folder.path, 'data'), API_PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    // A start that wrongly succeeds must not outlive its test.
    timeout: 60_000,
    killSignal: 'SIGKILL'
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  }
  const code = await new Promise<number | null>((done) => child.once('close', (status) => done(status)))
  return { code, lines: output.split('\n').filter((line) => line !== '') }
}

describe('a wrong environment', () => {
  const key = randomBytes(32).toString('base64')
  const mongo = { MONGO_URL: 'mongodb://127.0.0.1/longshore' }
  const cases: [string, Record<string, string>, string][] = [
    ['an unknown service', { SERVICES: 'scanner,harbour' }, 'SERVICES'],
    ['some services without a transporter', { SERVICES: 'scanner,transfer' }, 'TRANSPORTER'],
    ['a transporter that is no NATS', { TRANSPORTER: 'redis://127.0.0.1' }, 'TRANSPORTER'],
    ['a transporter without a shared database', { TRANSPORTER: 'nats://127.0.0.1:4222' }, 'MONGO_URL'],
    ['a database that is no MongoDB', { MONGO_URL: 'postgres://127.0.0.1/longshore' }, 'MONGO_URL'],
    ['a shared database without a key', mongo, 'ENCRYPTION_KEY'],
    ['a key that is too short', { ENCRYPTION_KEY: randomBytes(16).toString('base64') }, 'ENCRYPTION_KEY'],
    [
      'a store without its secret',
      { S3_ENDPOINT: 'http://127.0.0.1:9000', S3_ACCESS_KEY: 'hushed-access-key' },
      'S3_SECRET_KEY'
    ],
    ['a store that is no address', { S3_ENDPOINT: '127.0.0.1:9000' }, 'S3_ENDPOINT'],
    ['a broker that is no AMQP', { AMQP_URL: 'http://127.0.0.1' }, 'AMQP_URL'],
    ['a queue without a broker', { AMQP_QUEUE: 'ingested' }, 'AMQP_URL'],
    ['a key of an unknown role', { API_KEYS: 'ann:captain:hush' }, 'API_KEYS'],
    ['an open API without keys', { API_HOST: '0.0.0.0' }, 'API_KEYS'],
    ['a network that is none', { ALLOW_NETWORKS: '10.0.0.0/99' }, 'ALLOW_NETWORKS'],
    ['a port that there is not', { API_PORT: '99999' }, 'API_PORT'],
    ['a log level that there is not', { LOG_LEVEL: 'loud' }, 'LOG_LEVEL'],
    ['a rate that is no number', { RATE_LIMIT: 'many' }, 'RATE_LIMIT'],
    ['a secret in a file that is not there', { ENCRYPTION_KEY_FILE: '/no/such/file' }, 'ENCRYPTION_KEY_FILE'],
    ['a secret given twice', { ENCRYPTION_KEY: key, ENCRYPTION_KEY_FILE: '/no/such/file' }, 'ENCRYPTION_KEY']
  ]

  test.each(cases)('ends the start over %s with one line that names the variable', async (_what, env, variable) => {
    const { code, lines } = await run(env)
    expect(lines).toHaveLength(1)
    expect(lines[0]).toMatch(new RegExp(`\\b${variable}\\b`))
    expect(code).toBe(1)
    for (const [name, value] of Object.entries(env)) {
      if (/KEY|SECRET/.test(name) && !name.endsWith('_FILE')) expect(lines[0]).not.toContain(value)
    }
  })

  test('ends the start over a data folder that is a file', async () => {
    const path = join(folder.path, 'file')
    await writeFile(path, '')
    const { code, lines } = await run({ DATA_DIR: path })
    expect(code).toBe(1)
    expect(lines).toHaveLength(1)
    expect(lines[0]).toContain('DATA_DIR')
  })
})

describe('a data folder that is in use', () => {
  let longshore: Longshore
  beforeAll(async () => {
    longshore = await startLongshore({})
  })
  afterAll(() => longshore?.stop())

  test('is refused to a second process in one line, and the first one goes on', async () => {
    const { code, lines } = await run({ DATA_DIR: longshore.dataDir })
    expect(code).toBe(1)
    const complaints = lines.filter((line) => line.startsWith('longshore: '))
    expect(complaints).toHaveLength(1)
    expect(complaints[0]).toMatch(/DATA_DIR .* is in use by another Longshore process \(pid \d+\)/)
    expect(await longshore.api.request('GET', '/health/ready')).toMatchObject({ status: 200 })
  })

  test('is free again as soon as its process has stopped', async () => {
    await longshore.restart()
    expect(await longshore.api.request('GET', '/health/ready')).toMatchObject({ status: 200 })
  })

  test('says nothing of the native binding where it is loaded, and warns where it is not', async () => {
    const warning = /WARN.*native binding is not loaded.*run "npm run postinstall"/
    expect(longshore.output()).not.toMatch(warning)
    const without = await startLongshore({ env: { NODE_OPTIONS: '--no-addons' } })
    try {
      expect(without.output()).toMatch(warning)
    } finally {
      await without.stop()
    }
  })

  test('an API port that is taken ends the start with one line', async () => {
    const other = { DATA_DIR: join(folder.path, 'other'), API_PORT: String(longshore.port) }
    const { code, lines } = await run(other)
    expect(code).toBe(1)
    expect(lines.filter((line) => line.startsWith('longshore: '))).toHaveLength(1)
    expect(lines.at(-1)).toContain(`API_PORT ${longshore.port}`)
  })
})
