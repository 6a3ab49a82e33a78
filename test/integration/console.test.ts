import { type ChildProcess, spawn } from 'node:child_process'
import { resolve } from 'node:path'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import {
  type Backends,
  cleanEnvironment,
  type Longshore,
  startBackends,
  startLongshore,
  waitFor
} from '../support/longshore.ts'

const program = resolve(import.meta.dirname, '../..')
let backends: Backends
let longshore: Longshore
let child: ChildProcess | null = null

beforeAll(async () => {
  backends = await startBackends()
  longshore = await startLongshore({ backends })
})
afterAll(async () => {
  child?.kill('SIGKILL')
  await longshore?.stop()
  await backends?.stop()
})

test('the console joins the running services as a node without any, and stops none when it leaves', async () => {
  const nodes = async () => (await longshore.api.get('/nodes')).items as { id: string; services: string[] }[]
  const before = await nodes()
  child = spawn(process.execPath, ['console.ts'], {
    cwd: program,
    env: { ...process.env, ...cleanEnvironment, TRANSPORTER: backends.nats.url },
    stdio: ['pipe', 'pipe', 'pipe']
  })
  let output = ''
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  }
  const ended = new Promise<number | null>((done) => child!.once('close', (code) => done(code)))
  const explain = () => output
  await waitFor(() => output.includes('longshore $'), { what: 'the prompt', explain })
  const joined = await waitFor(async () => (await nodes()).find(({ id }) => id.startsWith('console-')), {
    what: 'the console to be a node'
  })
  expect(joined.services).toEqual([])
  child.stdin!.write('call servers.ping\n')
  await waitFor(() => /servers\.ping[\s\S]*true/.test(output), { what: 'an answer', explain })
  child.stdin!.write('quit\n')
  expect(await ended).toBe(0)
  await waitFor(async () => (await nodes()).length === before.length, {
    what: 'the console to leave'
  })
  expect(await longshore.api.request('GET', '/health/ready')).toMatchObject({ status: 200 })
  for (const { exited } of longshore.processes) expect(await Promise.race([exited, null])).toBeNull()
})
