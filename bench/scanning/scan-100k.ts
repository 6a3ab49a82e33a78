/**
 * One folder of 100,000 files on OpenSSH. `scanner` runs in a process of its own; `servers` and `files`, with their
 * database, in another; they meet on NATS. rclone lists the same folder in turns with Longshore's bare listing.
 */
import { spawn } from 'node:child_process'
import { mkdir, realpath, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { ScanSummary } from '../../domain/server.ts'
import { goBinary } from '../../test/support/go-programs.ts'
import { startNats } from '../../test/support/nats.ts'
import { type Sshd, startSshd } from '../../test/support/openssh.ts'
import { temporaryFolder } from '../../test/support/process.ts'
import type { Finding, ScanOptions } from './finding.ts'
import { registeredServer } from './registered.ts'
import { type Side, startSide, type Usage } from './side.ts'
import { storeAll } from './store-all.ts'

const RUNS = 3

export async function scanLargeFolder({ isSmall }: ScanOptions): Promise<Finding[]> {
  const count = isSmall ? 10_000 : 100_000
  const scratch = await temporaryFolder('scan')
  const [sshd, nats] = await Promise.all([startSshd(), startNats()])
  const sides: Side[] = []
  const start = (script: string) => {
    const side = startSide(script)
    sides.push(side)
    return side
  }
  try {
    const folder = await realpath(sshd.root)
    await writeFiles(folder, 0, count)
    const list = await bareListings(start('scanner-side.ts'), sshd, folder, count, scratch.path)

    const dataDir = join(scratch.path, 'owners')
    await mkdir(dataDir)
    const scannerDir = join(scratch.path, 'scanner')
    await mkdir(scannerDir)
    const job = { dataDir, natsUrl: nats.url }
    let owners = start('owners-side.ts')
    const encryptionKey = await owners.ask<string>('start', job)
    const scanner = start('scanner-side.ts')
    await scanner.ask('start', { dataDir: scannerDir, natsUrl: nats.url, nodeID: 'scanner', encryptionKey })
    const { host, port, username, privateKey } = sshd
    const body = { host, port, username, roots: [folder], interval: 86_400 }
    const id = 'large'
    const server = { ...registeredServer(id, body, { privateKey }, encryptionKey), nextScanAt: Date.now() + 86_400_000 }
    await owners.ask('insertServers', [server])

    const scan = async () => {
      await owners.ask('reset')
      await scanner.ask('reset')
      const startedAt = performance.now()
      const params = { id, wait: true }
      const summary = await owners.ask<ScanSummary>('call', { action: 'scanner.scan', params })
      const seconds = (performance.now() - startedAt) / 1000
      const calls = await owners.ask<Record<string, number>>('databaseCalls')
      const used = await scanner.ask<Usage>('usage')
      console.log(`scan: ${seconds.toFixed(2)} s, ${JSON.stringify({ summary, calls, used })}`)
      if (!summary.complete) throw new Error(`the scan was not complete: ${JSON.stringify(summary)}`)
      return { summary, seconds, calls: Object.values(calls).reduce((sum, one) => sum + one, 0), used }
    }

    await scanner.ask('meet')
    const first = await scan()
    await owners.stop()
    await storeAll(join(dataDir, 'files.db'))
    owners = start('owners-side.ts')
    await owners.ask('start', job)
    await scanner.ask('meet')
    const learning = await scan()
    const unchanged = []
    for (let run = 0; run < RUNS; run++) unchanged.push(await scan())
    await writeFiles(folder, count, 10)
    const withNews = await scan()

    const known = median(unchanged.map(({ seconds }) => seconds))
    const cpuOf = ({ used }: { used: Usage }) => `${used.cpuSeconds.toFixed(1)} s of the scanner's CPU`
    const stall = Math.max(...[first, learning, ...unchanged, withNews].map(({ used }) => used.longestStallMs))
    return [
      {
        what: 'bare listing',
        value: list.ours,
        unit: 's',
        atMost: list.rclone,
        note: 'goal: rclone lsf in the same run'
      },
      { what: 'rclone lsf', value: list.rclone, unit: 's' },
      { what: 'files not registered by the first scan', value: count - first.summary.new, unit: 'files', atMost: 0 },
      { what: 'first scan, registering all', value: first.seconds, unit: 's' },
      {
        what: 'the same, everything stored, nothing remembered yet',
        value: learning.seconds,
        unit: 's',
        note: `${learning.calls} database calls, ${cpuOf(learning)}`
      },
      {
        what: 'nothing new',
        value: known / list.ours,
        unit: 'x the bare listing',
        atMost: 1.5,
        note: `${known.toFixed(2)} s, ${cpuOf(unchanged.at(-1)!)}`
      },
      {
        what: 'database calls, nothing new',
        value: Math.max(...unchanged.map(({ calls }) => calls)),
        unit: 'calls',
        atMost: 20
      },
      {
        what: 'database calls, 10 new files',
        value: withNews.calls,
        unit: 'calls',
        atMost: 50,
        note: `${withNews.summary.new} found, ${cpuOf(withNews)}`
      },
      { what: 'new files not found', value: 10 - withNews.summary.new, unit: 'files', atMost: 0 },
      { what: 'peak memory of the scanner', value: withNews.used.peakRssMB, unit: 'MB', atMost: 150 },
      { what: 'longest stall of its event loop', value: stall, unit: 'ms', atMost: 100 }
    ]
  } finally {
    for (const side of sides.reverse()) await side.stop().catch(() => side.kill())
    await nats.stop()
    await sshd.stop()
    await scratch.remove()
  }
}

async function writeFiles(folder: string, first: number, count: number): Promise<void> {
  for (let from = first; from < first + count; from += 500) {
    const names = Array.from({ length: Math.min(500, first + count - from) }, (_, index) => String(from + index))
    await Promise.all(
      names.map((name) => writeFile(join(folder, `INVOICE-2026-11-24-${name.padStart(8, '0')}.xml`), name))
    )
  }
}

/** Medians in seconds: Longshore's driver by itself, in a process that is up already, and rclone with its start. */
async function bareListings(side: Side, sshd: Sshd, folder: string, count: number, scratch: string) {
  const { host, port, username, privateKey } = sshd
  const keyFile = join(scratch, 'key')
  await writeFile(keyFile, privateKey, { mode: 0o600 })
  const [ours, theirs]: [number[], number[]] = [[], []]
  for (let run = 0; run < RUNS; run++) {
    const startedAt = performance.now()
    const entries = await side.ask<number>('list', { target: { host, port, username, privateKey }, folder })
    ours.push((performance.now() - startedAt) / 1000)
    if (entries !== count) throw new Error(`the bare listing has ${entries} entries`)
    theirs.push(await rcloneLsf({ host, port, username, keyFile, folder, count, config: join(scratch, 'rclone.conf') }))
  }
  await side.stop()
  console.log(
    `bare listing: ${ours.map((one) => one.toFixed(2))} s, rclone lsf: ${theirs.map((one) => one.toFixed(2))} s`
  )
  return { ours: median(ours), rclone: median(theirs) }
}

interface Lsf {
  host: string
  port: number
  username: string
  keyFile: string
  folder: string
  count: number
  config: string
}

async function rcloneLsf({ host, port, username, keyFile, folder, count, config }: Lsf): Promise<number> {
  const remote = { TYPE: 'sftp', HOST: host, PORT: String(port), USER: username, KEY_FILE: keyFile, SHELL_TYPE: 'none' }
  const named = Object.entries(remote).map(([name, value]) => [`RCLONE_CONFIG_SOURCE_${name}`, value])
  const env = { ...process.env, RCLONE_CONFIG: config, RCLONE_LOG_LEVEL: 'ERROR', ...Object.fromEntries(named) }
  const binary = await goBinary('rclone')
  const startedAt = performance.now()
  const child = spawn(binary, ['lsf', `source:${folder}`], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve))
  let lines = 0
  for await (const _ of createInterface({ input: child.stdout })) lines++
  const code = await exited
  if (code !== 0 || lines !== count) throw new Error(`rclone lsf ended with ${code} and ${lines} lines`)
  return (performance.now() - startedAt) / 1000
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!
}
