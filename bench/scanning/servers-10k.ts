/**
 * 10,000 registered servers, each to be scanned every 60 s, by two scanners over NATS. A tenth of them are ssh2 servers in
 * a process of their own (20 listeners, shared out); the others exist at the border of the driver only, and cost there
 * what one connection to an ssh2 server was measured to cost at the beginning of the run: the same CPU, and 200 ms, as over
 * a line of some length. Each has 20 files, all recorded and at rest after the first round.
 *
 * Then one scanner is killed, and started again 5 s later as a supervisor would.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { ServerRecord } from '../../domain/server.ts'
import { SCAN_LEASE_MS } from '../../domain/server.ts'
import { startNats } from '../../test/support/nats.ts'
import { temporaryFolder } from '../../test/support/process.ts'
import type { Finding, ScanOptions } from './finding.ts'
import type { PunctualityReport } from './punctuality.ts'
import { registeredServer } from './registered.ts'
import type { ListingCost } from './scripted-servers.ts'
import { type Side, startSide, type Usage } from './side.ts'

const FILES = 20
const LISTENERS = 20
const LATENCY_MS = 200
const RESTART_AFTER_MS = 5_000
const P99_MS = 5_000

export async function scanManyServers({ isSmall, seconds }: ScanOptions): Promise<Finding[]> {
  const count = isSmall ? 1_000 : 10_000
  const intervalSeconds = isSmall ? 20 : 60
  const scratch = await temporaryFolder('farm')
  const nats = await startNats()
  const sides: Side[] = []
  const start = (script: string) => {
    const side = startSide(script)
    sides.push(side)
    return side
  }
  const folder = async (name: string) => {
    await mkdir(join(scratch.path, name), { recursive: true })
    return join(scratch.path, name)
  }
  try {
    const farm = await start('farm-side.ts').ask<Farm>('start', {
      folder: join(scratch.path, 'farm'),
      servers: LISTENERS,
      files: FILES
    })
    const cost = await costOf(start('scanner-side.ts'), farm)
    console.log(`one connection to an ssh2 server takes ${cost.cpuMs.toFixed(1)} ms of CPU`)

    const natsUrl = nats.url
    const owners = start('owners-side.ts')
    const encryptionKey = await owners.ask<string>('start', {
      dataDir: await folder('owners'),
      natsUrl,
      isStandIn: true
    })
    const startScanner = async (nodeID: string) => {
      const side = start('scanner-side.ts')
      await side.ask('start', { dataDir: await folder(nodeID), natsUrl, nodeID, encryptionKey, cost })
      return side
    }
    const scanners = [await startScanner('scanner-1'), await startScanner('scanner-2')]
    const firstScanAt = Date.now() + 3_000
    for (let first = 0; first < count; first += 500) {
      const servers = Array.from({ length: 500 }, (_, index) =>
        record(first + index, { count, intervalSeconds, farm, encryptionKey, firstScanAt })
      )
      await owners.ask('insertServers', servers)
    }

    // The first round connects to everything for the first time and learns what is there; it is not counted.
    await delay(intervalSeconds * 1000 + 10_000)
    for (const side of [owners, ...scanners]) await side.ask('reset')
    // Each server's next tick falls into the time that is watched.
    const watchedSeconds = Math.max(seconds, intervalSeconds + 10)
    await delay(watchedSeconds * 1000)
    const steady = await owners.ask<PunctualityReport>('punctuality')
    const used = await Promise.all(scanners.map((side) => side.ask<Usage>('usage')))
    const owned = await owners.ask<Usage>('usage')
    const calls = await owners.ask<Record<string, number>>('databaseCalls')
    console.log(`steady: ${JSON.stringify({ steady, used, owned, calls })}`)

    await owners.ask('reset')
    // In the middle of its scans.
    await owners.ask('claimBy', 'scanner-2/scanner')
    await scanners[1]!.kill()
    await delay(RESTART_AFTER_MS)
    await startScanner('scanner-2')
    await delay(intervalSeconds * 1000 + SCAN_LEASE_MS)
    const killed = await owners.ask<PunctualityReport>('punctuality')
    console.log(`killed: ${JSON.stringify(killed)}`)

    const perScan = (cpuSeconds: number) => (cpuSeconds * 1000) / steady.scans
    const databaseCalls = Object.values(calls).reduce((sum, one) => sum + one, 0)
    const scannerCpu = used.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, 0)
    return [
      {
        what: 'scans a second',
        value: steady.scans / watchedSeconds,
        unit: 'scans/s',
        note: `${count} servers at ${intervalSeconds} s`
      },
      { what: 'servers not scanned at all', value: count - steady.servers, unit: 'servers', atMost: 0 },
      { what: 'lateness of a scan, p99', value: steady.latenessMs.p99, unit: 'ms', atMost: P99_MS },
      { what: 'lateness of a scan, median', value: steady.latenessMs.p50, unit: 'ms' },
      { what: 'lateness of a scan, most', value: steady.latenessMs.most, unit: 'ms' },
      {
        what: 'CPU of the scanners for a scan',
        value: perScan(scannerCpu),
        unit: 'ms',
        note: `${cost.cpuMs.toFixed(1)} ms of it are the connection`
      },
      { what: 'CPU of servers and files for a scan', value: perScan(owned.cpuSeconds), unit: 'ms' },
      { what: 'database calls for a scan', value: databaseCalls / steady.scans, unit: 'calls' },
      { what: 'peak memory of a scanner', value: Math.max(...used.map(({ peakRssMB }) => peakRssMB)), unit: 'MB' },
      { what: 'a scanner killed: servers not scanned', value: count - killed.servers, unit: 'servers', atMost: 0 },
      { what: 'a scanner killed: lateness, most', value: killed.latenessMs.most, unit: 'ms', atMost: SCAN_LEASE_MS },
      {
        what: 'a scanner killed: its scans, begun again after',
        value: killed.takenOverAfterMs,
        unit: 'ms',
        atMost: SCAN_LEASE_MS + P99_MS,
        note: `${killed.takenOver} scans; goal: a lease, and the lateness of any scan`
      }
    ]
  } finally {
    for (const side of sides.reverse()) await side.stop().catch(() => side.kill())
    await nats.stop()
    await scratch.remove()
  }
}

interface Farm {
  ports: number[]
  username: string
  password: string
}

/** What the driver takes for one small listing, from the connect to the close. */
async function costOf(side: Side, { ports, username, password }: Farm): Promise<ListingCost> {
  const connect = (port: number) =>
    side.ask('list', { target: { host: '127.0.0.1', port, username, password }, folder: '/' })
  // Warm first: what is compiled once is not what a scan costs.
  for (let round = 0; round < 10; round++) await Promise.all(ports.map(connect))
  await side.ask('reset')
  const rounds = 15
  for (let round = 0; round < rounds; round++) await Promise.all(ports.map(connect))
  const { cpuSeconds } = await side.ask<Usage>('usage')
  await side.stop()
  return { cpuMs: (cpuSeconds * 1000) / (rounds * ports.length), latencyMs: LATENCY_MS, files: FILES }
}

/** Their first scans are spread over the interval: a registry of this size did not come into being in one second. */
function record(index: number, { count, intervalSeconds, farm, encryptionKey, firstScanAt }: Registry): ServerRecord {
  const isReal = index % 10 === 0
  const { username, password, ports } = farm
  const address = isReal
    ? { host: '127.0.0.1', port: ports[(index / 10) % ports.length]! }
    : { host: `simulated-${index}`, port: 22 }
  const body = { ...address, username, interval: intervalSeconds }
  const server = registeredServer(`server-${index}`, body, { password }, encryptionKey)
  return { ...server, nextScanAt: firstScanAt + Math.round((index / count) * intervalSeconds * 1000) }
}

interface Registry {
  count: number
  intervalSeconds: number
  farm: Farm
  encryptionKey: string
  firstScanAt: number
}
