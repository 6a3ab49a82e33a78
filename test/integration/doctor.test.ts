import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Backends, cleanEnvironment, startBackends, startLongshore } from '../support/longshore.ts'
import { freePort } from '../support/ports.ts'
import { temporaryFolder } from '../support/process.ts'

let backends: Backends
let folder: { path: string; remove(): Promise<void> }
beforeAll(async () => {
  folder = await temporaryFolder('doctor')
  backends = await startBackends()
})
afterAll(async () => {
  await backends?.stop()
  await folder.remove()
})

function longshore(args: string[], env: Record<string, string>): Promise<{ code: number; out: string; err: string }> {
  const launcher = join(import.meta.dirname, '../../cli/launcher.mjs')
  const whole = { ...process.env, ...cleanEnvironment, DATA_DIR: folder.path, ...env }
  return new Promise((resolve) => {
    execFile(process.execPath, [launcher, ...args], { env: whole }, (error, out, err) => {
      resolve({ code: error ? Number(error.code) : 0, out, err })
    })
  })
}

async function checksOf(env: Record<string, string>) {
  const { code, out, err } = await longshore(['doctor', '--json'], env)
  expect(err).toBe('')
  const { ok, checks } = JSON.parse(out)
  expect(code).toBe(ok ? 0 : 1)
  const states = Object.fromEntries(checks.map((one: { name: string; state: string }) => [one.name, one.state]))
  const details = Object.fromEntries(checks.map((one: { name: string; detail: string }) => [one.name, one.detail]))
  return { code, out, states, details }
}

describe('longshore doctor', () => {
  test('finds nothing to mend where every backend answers, and says which bucket is made later', async () => {
    const { code, states, details } = await checksOf(backends.env)
    expect(code).toBe(0)
    const others = { folder: 'ok', database: 'ok', queue: 'ok', network: 'ok', configuration: 'ok', binding: 'ok' }
    expect(states).toMatchObject({ ...others, store: 'warned' })
    expect(details.store).toContain(`no bucket ${backends.bucket} yet`)
    expect(details.database).toBe(
      `MongoDB at ${new URL(backends.env.MONGO_URL!).host}${new URL(backends.env.MONGO_URL!).pathname} answers`
    )
  })

  test('names what to mend of each backend that is away, and looks at the others all the same', async () => {
    const port = await freePort()
    const env = {
      ...backends.env,
      MONGO_URL: `mongodb://u:canary-mongo@127.0.0.1:${port}/l`,
      TRANSPORTER: `nats://u:canary-nats@127.0.0.1:${port}`
    }
    const { out, states, details } = await checksOf(env)
    expect(states).toMatchObject({ configuration: 'ok', database: 'failed', network: 'failed', queue: 'ok' })
    expect(details.database).toMatch(new RegExp(`^MongoDB at 127\\.0\\.0\\.1:${port}/l: .*check MONGO_URL`))
    expect(details.network).toContain(`127.0.0.1:${port}`)
    expect(out).not.toContain('canary')
  })

  test('names the variables of credentials that are refused, and shows none of them', async () => {
    const wrong = backends.queue.url.replace(/\/\/.*@/, '//guest:canary-amqp@')
    const amqp = wrong === backends.queue.url ? backends.queue.url.replace('//', '//guest:canary-amqp@') : wrong
    const { out, states, details } = await checksOf({ ...backends.env, S3_SECRET_KEY: 'canary-s3', AMQP_URL: amqp })
    expect(states).toMatchObject({ store: 'failed', queue: 'failed', database: 'ok', network: 'ok' })
    expect(details.store).toContain('S3_SECRET_KEY')
    expect(details.queue).toContain('AMQP_URL')
    expect(out).not.toContain('canary')
  })

  test('warns where the native binding cannot be loaded, and says which command mends it', async () => {
    const { code, states, details } = await checksOf({ NODE_OPTIONS: '--no-addons' })
    expect(code).toBe(0)
    expect(states.binding).toBe('warned')
    expect(details.binding).toMatch(/native binding is not loaded.*run "npm run postinstall"/)
  })

  test('reports a wrong variable by its name, in a table too', async () => {
    const { code, out } = await longshore(['doctor'], { BANDWIDTH: 'fast' })
    expect(code).toBe(1)
    expect(out).toMatch(/^FAILED {3}configuration {2}BANDWIDTH should be/m)
  })

  test('leaves a running Longshore alone', async () => {
    const running = await startLongshore({})
    try {
      const { code, details } = await checksOf({ DATA_DIR: running.dataDir })
      expect(code).toBe(0)
      expect(details.database).toContain('in use by a running Longshore')
      expect((await running.api.get('/health/ready')).status).toBeDefined()
    } finally {
      await running.stop()
    }
  })

  test('answers wrong usage with 2', async () => {
    expect(await longshore(['docter'], {})).toMatchObject({ code: 2, err: expect.stringContaining('docter') })
    expect(await longshore(['doctor', '--yaml'], {})).toMatchObject({ code: 2 })
    expect(await longshore(['--help'], {})).toMatchObject({ code: 0, out: expect.stringContaining('doctor') })
  })
})
