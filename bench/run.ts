/**
 * Longshore's copying and listing against rclone's, SFTP (OpenSSH) to MinIO on this machine.
 *
 *   node bench/run.ts                     every case
 *   node bench/run.ts small big-20ms      some of them
 *   node bench/run.ts --runs 1 big        fewer runs than the case asks for
 *   node bench/run.ts --only big          Longshore alone
 *   node bench/run.ts --prof small        one run of Longshore alone, with a CPU profile in bench/results/
 *   node bench/run.ts latency             from the request for a scan to the message
 *   node bench/run.ts scan-100k           a claim about scanning, see scanning/cases.ts; `scans` for all of those
 *   node bench/run.ts --quick scans       the same, a tenth as large: to see that it runs, goals are not judged
 *   node bench/run.ts --seconds 60 servers-10k    watched for another time than two minutes
 *
 * The two take turns, so that the machine's moods fall on both; a figure is the median of a side's runs. All runs are
 * kept in bench/results/<time>.json. Exits 1 when a goal is missed.
 */
import { mkdir, open, realpath, rm, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startMinio } from '../test/support/minio.ts'
import { startSshd } from '../test/support/openssh.ts'
import { temporaryFolder } from '../test/support/process.ts'
import { startProxy } from '../test/support/proxy.ts'
import { writeSource } from '../test/support/source-files.ts'
import { type Case, cases } from './cases.ts'
import { isQuick, type Latency, latencyTable, measureLatency } from './latency.ts'
import { type Job, type Measurement, processCpuSeconds } from './measurement.ts'
import { scanCases } from './scanning/cases.ts'
import { type Finding, findingsTable, isMet as isFound } from './scanning/finding.ts'
import { killSides } from './scanning/side.ts'
import { interrupt, longshore, naive, rclone, rcloneVersion } from './sides.ts'
import { describe, isMet, type Result, sideOf, table } from './table.ts'

/** Of Linux: a file system in memory. */
const memoryFolder = '/dev/shm'
const results = join(import.meta.dirname, 'results')
await mkdir(results, { recursive: true })
const { values: wanted, positionals: names } = parseArgs({
  allowPositionals: true,
  options: {
    prof: { type: 'boolean', default: false },
    only: { type: 'boolean', default: false },
    runs: { type: 'string' },
    quick: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '120' }
  }
})
const isAlone = wanted.prof || wanted.only
const isAsked = ({ name }: { name: string }) => names.length === 0 || names.includes(name)
const scans = scanCases.filter((one) => isAsked(one) || names.includes('scans'))
const known = [...cases, ...scanCases, { name: 'latency' }].map(({ name }) => name)
const unknown = names.filter((name) => name !== 'scans' && !known.includes(name))
if (unknown.length > 0) {
  console.error(`no such case: ${unknown.join(', ')}; there are ${known.join(', ')}, and scans`)
  process.exit(2)
}

// The run under way fails, and what was started for it is stopped and removed on the way out.
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    interrupt()
    killSides()
  })
}

const time = new Date().toISOString()
const machine = { cpu: cpus()[0]?.model, cores: cpus().length, node: process.version, rclone: rcloneVersion }
const file = join(results, `${time.replaceAll(':', '-')}.json`)
const measured: Result[] = []
let latency: Latency[] = []
const found: { name: string; findings: Finding[] }[] = []
for (const one of cases.filter(isAsked)) {
  const result = await measure(one)
  if (!result) continue
  measured.push(result)
  await keep()
}
if (isAsked({ name: 'latency' }) && !isAlone) {
  latency = await measureLatency()
  await keep()
  console.log(`\n${latencyTable(latency)}\n`)
  if (!latency.every(isQuick)) process.exitCode = 1
}
for (const one of isAlone ? [] : scans) {
  const findings = await one.run({ isSmall: wanted.quick, seconds: Number(wanted.seconds) })
  found.push({ name: one.name, findings })
  await keep()
  console.log(`\n${findingsTable(one.title, findings)}\n`)
  if (!wanted.quick && !findings.every(isFound)) process.exitCode = 1
}
if (measured.length > 0) {
  console.log(`\n${table(measured)}`)
  if (measured.some((result) => result.case.goals.some((goal) => !isMet(goal, result)))) process.exitCode = 1
}

async function keep(): Promise<void> {
  await writeFile(file, `${JSON.stringify({ time, machine, results: measured, latency, scans: found }, null, 2)}\n`)
}

/** One case on servers of its own; null when Longshore ran alone. */
async function measure(one: Case): Promise<Result | null> {
  const scratch = await temporaryFolder('bench')
  const objects = await temporaryFolder('bench-objects', one.storeInMemory ? memoryFolder : undefined)
  const [sshd, minio] = await Promise.all([startSshd(), startMinio({ dir: objects.path })])
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
    const run = async (
      name: string,
      side: (job: Job, begins: () => void) => Promise<Measurement>
    ): Promise<Measurement> => {
      const bucket = `bench-${++number}`
      const { endpoint, accessKey, secretKey } = minio
      const dataDir = await folderIn(scratch.path, `data-${number}`)
      const s3 = { endpoint, accessKey, secretKey, bucket }
      const { files, sizeBytes, roundsBefore = 0, checksum = 'crc32' } = one
      const cpuOfServers = async () => [await processCpuSeconds(sshd.pid), await processCpuSeconds(minio.pid)] as const
      let reading = cpuOfServers()
      const begins = () => {
        reading = cpuOfServers()
      }
      const own = await side({ files, sizeBytes, roundsBefore, checksum, sftp, s3, dataDir }, begins)
      const [before, after] = [await reading, await cpuOfServers()]
      const answer = { ...own, sftpCpuSeconds: after[0] - before[0], storeCpuSeconds: after[1] - before[1] }
      // A bucket of MinIO is a folder; asking it to remove thousands of objects would take longer than the run.
      await rm(join(objects.path, bucket), { recursive: true, force: true })
      console.log(`${one.title}: ${name} ${describe(one, answer)}`)
      return answer
    }
    const runs = wanted.runs === undefined ? one.runs : Number(wanted.runs)
    if (isAlone) {
      for (let turn = 0; turn < (wanted.prof ? 1 : runs); turn++) {
        await run('Longshore', (job, begins) => longshore(job, wanted.prof ? results : null, begins))
      }
      return null
    }
    const transfers = await fastest(one, (count) => run(`rclone --transfers ${count}`, (job) => rclone(job, count)))
    const ours: Measurement[] = []
    const theirs: Measurement[] = []
    for (let turn = 0; turn < runs; turn++) {
      ours.push(await run('Longshore', (job, begins) => longshore(job, null, begins)))
      theirs.push(await run(`rclone --transfers ${transfers}`, (job) => rclone(job, transfers)))
    }
    const straightforward = one.naive ? sideOf([await run('naive', naive)]) : null
    return { case: one, transfers, longshore: sideOf(ours), rclone: sideOf(theirs), naive: straightforward }
  } finally {
    await proxy?.close()
    await minio.stop()
    await sshd.stop()
    await objects.remove()
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

/** Of rclone's settings the one that suits the case best, by the better of two runs of each. */
async function fastest(one: Case, run: (transfers: number) => Promise<Measurement>): Promise<number> {
  if (one.transfers.length === 1) return one.transfers[0]!
  let best = { transfers: 0, seconds: Number.POSITIVE_INFINITY }
  for (const transfers of [...one.transfers, ...one.transfers]) {
    const { seconds } = await run(transfers)
    if (seconds < best.seconds) best = { transfers, seconds }
  }
  return best.transfers
}
