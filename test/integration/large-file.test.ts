import { readFile, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals'
import { checkEverything } from '../support/checker.ts'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, type Longshore, waitFor } from '../support/longshore.ts'
import { startWorld, type World } from '../support/world.ts'

jest.setTimeout(600_000)

const MiB = 1024 * 1024
const GiB = 1024 * MiB
/** Measured: 166 MB. */
const MOST_BYTES = 200e6

let world: World
let backends: Backends
let longshore: Longshore
let consumer: Consumer

beforeAll(async () => {
  world = await startWorld()
  ;({ backends, longshore, consumer } = world)
})
afterAll(() => world?.stop())

async function peakBytes(pid: number): Promise<number> {
  const [, kilobytes] = /^VmHWM:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))!
  return Number(kilobytes) * 1024
}

test('a file of 2 GiB is copied whole by a process that stays below 200 MB', async () => {
  const path = join(backends.root, 'large')
  await writeFile(path, 'the beginning')
  await truncate(path, 2 * GiB)
  const transfer = longshore.processes.find(({ name }) => name === 'transfer')!
  const server = backends.server({ roots: [backends.root], interval: 1, settle: { checks: 1, seconds: 0 } })
  await longshore.api.post('/servers', server)
  await waitFor(async () => (await longshore.api.get('/stats')).files.notified.count === 1, {
    timeoutMs: 480_000,
    what: '2 GiB to be notified',
    everyMs: 500,
    explain: longshore.output
  })
  const peak = await peakBytes(transfer.pid)
  console.log(`peak of the transfer process: ${Math.round(peak / 1e6)} MB`)
  expect(peak).toBeLessThan(MOST_BYTES)
  const report = await checkEverything({ backends, longshore, consumer })
  expect(report.problems).toEqual([])
  expect(report).toMatchObject({ files: 1, bytes: 2 * GiB })
})
