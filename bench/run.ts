/**
 * Longshore's copying against rclone's, SFTP (OpenSSH) to MinIO on this machine.
 *
 *   node bench/run.ts                     every case
 *   node bench/run.ts small big-20ms      some of them
 *   node bench/run.ts --prof small        one run of Longshore alone, with a CPU profile in bench/results/
 *
 * The two take turns, so that the machine's moods fall on both; a figure is the median of a side's runs. All runs are
 * kept in bench/results/<time>.json. Exits 1 when a goal is missed.
 */
import { mkdir, open, realpath, rm, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { startMinio } from '../test/support/minio.ts'
import { startSshd } from '../test/support/openssh.ts'
import { temporaryFolder } from '../test/support/process.ts'
import { startProxy } from '../test/support/proxy.ts'
import { writeSource } from '../test/support/source-files.ts'
import { type Case, cases, type Goal } from './cases.ts'
import type { Job, Measurement } from './measurement.ts'
import { interrupt, longshore, naive, rclone, rcloneVersion } from './sides.ts'

interface Side {
  runs: Measurement[]
  median: Measurement
}

interface Result {
  case: Case
  transfers: number
  longshore: Side
  rclone: Side
  naive: Side | null
}

const results = join(import.meta.dirname, 'results')
await mkdir(results, { recursive: true })
const words = process.argv.slice(2)
const isProfiling = words.includes('--prof')
const names = words.filter((word) => word !== '--prof')
const unknown = names.filter((name) => !cases.some((one) => one.name === name))
if (unknown.length > 0) {
  console.error(`no such case: ${unknown.join(', ')}; there are ${cases.map(({ name }) => name).join(', ')}`)
  process.exit(2)
}

// The run under way fails, and what was started for it is stopped and removed on the way out.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupt)

const time = new Date().toISOString()
const machine = { cpu: cpus()[0]?.model, cores: cpus().length, node: process.version, rclone: rcloneVersion }
const file = join(results, `${time.replaceAll(':', '-')}.json`)
const measured: Result[] = []
for (const one of cases.filter(({ name }) => names.length === 0 || names.includes(name))) {
  const result = await measure(one)
  if (!result) continue
  measured.push(result)
  await writeFile(file, `${JSON.stringify({ time, machine, results: measured }, null, 2)}\n`)
}
if (!isProfiling) {
  console.log(`\n${table(measured)}`)
  if (measured.some((result) => result.case.goals.some((goal) => !isMet(goal, result)))) process.exitCode = 1
}

/** One case on servers of its own; null when it was only profiled. */
async function measure(one: Case): Promise<Result | null> {
  const scratch = await temporaryFolder('bench')
  const [sshd, minio] = await Promise.all([startSshd(), startMinio({ dir: await folderIn(scratch.path, 'minio') })])
  const proxy = one.delayMs
    ? await startProxy({ target: { host: sshd.host, port: sshd.port }, delayMs: one.delayMs })
    : null
  try {
    const root = await realpath(sshd.root)
    await writeSources(one, root)
    const keyFile = join(scratch.path, 'key')
    await writeFile(keyFile, sshd.privateKey, { mode: 0o600 })
    const { host, username, privateKey } = sshd
    const sftp = { host, port: proxy?.port ?? sshd.port, username, privateKey, keyFile, folder: root }
    let number = 0
    const run = async (name: string, side: (job: Job) => Promise<Measurement>): Promise<Measurement> => {
      const bucket = `bench-${++number}`
      const { endpoint, accessKey, secretKey } = minio
      const dataDir = await folderIn(scratch.path, `data-${number}`)
      const s3 = { endpoint, accessKey, secretKey, bucket }
      const answer = await side({ files: one.files, sizeBytes: one.sizeBytes, sftp, s3, dataDir })
      // A bucket of MinIO is a folder; asking it to remove thousands of objects would take longer than the run.
      await rm(join(scratch.path, 'minio', bucket), { recursive: true, force: true })
      console.log(`${one.title}: ${name} ${describe(one, answer)}`)
      return answer
    }
    if (isProfiling) {
      await run('Longshore', (job) => longshore(job, results))
      return null
    }
    const transfers = await fastest(one, (count) => run(`rclone --transfers ${count}`, (job) => rclone(job, count)))
    const ours: Measurement[] = []
    const theirs: Measurement[] = []
    for (let turn = 0; turn < one.runs; turn++) {
      ours.push(await run('Longshore', (job) => longshore(job, null)))
      theirs.push(await run(`rclone --transfers ${transfers}`, (job) => rclone(job, transfers)))
    }
    const straightforward = one.naive ? sideOf([await run('naive', naive)]) : null
    return { case: one, transfers, longshore: sideOf(ours), rclone: sideOf(theirs), naive: straightforward }
  } finally {
    await proxy?.close()
    await minio.stop()
    await sshd.stop()
    await scratch.remove()
  }
}

async function folderIn(parent: string, name: string): Promise<string> {
  const path = join(parent, name)
  await mkdir(path)
  return path
}

async function writeSources(one: Case, root: string): Promise<void> {
  for (let index = 0; index < one.files; index++) {
    const name = `file-${String(index).padStart(5, '0')}`
    if (!one.sparse) {
      await writeSource(root, name, one.sizeBytes)
      continue
    }
    const file = await open(join(root, name), 'w')
    await file.truncate(one.sizeBytes)
    await file.close()
  }
}

/** Of rclone's settings the one that suits the case best. */
async function fastest(one: Case, run: (transfers: number) => Promise<Measurement>): Promise<number> {
  if (one.transfers.length === 1) return one.transfers[0]!
  let best = { transfers: 0, seconds: Number.POSITIVE_INFINITY }
  for (const transfers of one.transfers) {
    const { seconds } = await run(transfers)
    if (seconds < best.seconds) best = { transfers, seconds }
  }
  return best.transfers
}

function sideOf(runs: Measurement[]): Side {
  const median = (pick: (run: Measurement) => number) => runs.map(pick).toSorted((a, b) => a - b)[runs.length >> 1]!
  return {
    runs,
    median: {
      seconds: median(({ seconds }) => seconds),
      cpuSeconds: median(({ cpuSeconds }) => cpuSeconds),
      peakRssMB: median(({ peakRssMB }) => peakRssMB)
    }
  }
}

function rateOf(one: Case, { seconds }: Measurement): number {
  return (one.unit === 'files/s' ? one.files : (one.files * one.sizeBytes) / 1e6) / seconds
}

function describe(one: Case, run: Measurement): string {
  const rate = `${rateOf(one, run).toFixed(0)} ${one.unit}`
  return `${rate}, CPU ${run.cpuSeconds.toFixed(1)} s, peak ${run.peakRssMB.toFixed(0)} MB`
}

function ratioOf(goal: Goal, result: Result): number {
  const [ours, theirs] = [result.longshore.median, result.rclone.median]
  if (goal.of === 'rate') return rateOf(result.case, ours) / rateOf(result.case, theirs)
  return goal.of === 'cpu' ? ours.cpuSeconds / theirs.cpuSeconds : ours.peakRssMB
}

function isMet(goal: Goal, result: Result): boolean {
  const value = ratioOf(goal, result)
  return value >= (goal.atLeast ?? value) && value <= (goal.atMost ?? value)
}

/** In Markdown, to be pasted into a document. */
function table(rows: Result[]): string {
  const lines = [
    '| case | Longshore | rclone | straightforward | CPU s | peak RSS MB | rate | CPU | goal | met |',
    '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |'
  ]
  for (const result of rows) {
    const { case: one, longshore: ours, rclone: theirs, naive: plain } = result
    const rate = (side: Side | null) => (side ? `${rateOf(one, side.median).toFixed(0)} ${one.unit}` : '-')
    const each = (pick: (run: Measurement) => string) =>
      [ours, theirs, plain].flatMap((side) => (side ? [pick(side.median)] : [])).join(' / ')
    const cells = [
      one.title,
      rate(ours),
      `${rate(theirs)} (--transfers ${result.transfers})`,
      rate(plain),
      each(({ cpuSeconds }) => cpuSeconds.toFixed(1)),
      each(({ peakRssMB }) => peakRssMB.toFixed(0)),
      `${ratioOf({ of: 'rate' }, result).toFixed(2)}x`,
      `${ratioOf({ of: 'cpu' }, result).toFixed(2)}x`,
      one.goals.map(goalText).join(', '),
      one.goals.map((goal) => (isMet(goal, result) ? 'yes' : 'NO')).join(', ')
    ]
    lines.push(`| ${cells.join(' | ')} |`)
  }
  return lines.join('\n')
}

function goalText({ of, atLeast, atMost }: Goal): string {
  const bound = atLeast === undefined ? `<= ${atMost}` : `>= ${atLeast}`
  return of === 'rssMB' ? `RSS ${bound} MB` : `${of} ${bound}x`
}
