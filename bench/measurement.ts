import { readFile } from 'node:fs/promises'

/** What a run answers, and the messages between the benchmark and the process that it measures. */

export interface Measurement {
  seconds: number
  cpuSeconds: number
  peakRssMB: number
  /** What it held before it began, and the most that it held in each quarter of the run. */
  rssMB?: { before: number; quarters: number[] }
  /** What the SFTP server and the store took meanwhile. */
  sftpCpuSeconds?: number
  storeCpuSeconds?: number
}

/** One run's source and destination, as every side is told. */
export interface Job {
  files: number
  sizeBytes: number
  /** See `Case`. */
  roundsBefore: number
  checksum: 'crc32' | 'sha256'
  sftp: { host: string; port: number; username: string; privateKey: string; keyFile: string; folder: string }
  s3: { endpoint: string; accessKey: string; secretKey: string; bucket: string }
  /** An empty folder of the run's own. */
  dataDir: string
}

const SAMPLE_MS = 100

/** Measures `work` in this process: its time and CPU, and the peak of the process's whole life. */
export async function measureHere(work: () => Promise<void>): Promise<Measurement> {
  const before = process.memoryUsage.rss() / 1e6
  const samples: number[] = []
  const sample = setInterval(() => samples.push(process.memoryUsage.rss() / 1e6), SAMPLE_MS)
  const startedAt = performance.now()
  const cpuBefore = process.cpuUsage()
  await work()
  const seconds = (performance.now() - startedAt) / 1000
  const { user, system } = process.cpuUsage(cpuBefore)
  clearInterval(sample)
  const quarters = [0, 1, 2, 3].map((quarter) => {
    const [from, to] = [quarter, quarter + 1].map((at) => Math.floor((samples.length * at) / 4))
    return Math.round(Math.max(before, ...samples.slice(from, to)))
  })
  return {
    seconds,
    cpuSeconds: (user + system) / 1e6,
    peakRssMB: (process.resourceUsage().maxRSS * 1024) / 1e6,
    rssMB: { before: Math.round(before), quarters }
  }
}

/** CPU seconds of a process and of those of its children that have ended. */
export async function processCpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  // utime, stime, cutime, cstime of proc(5), in ticks of 10 ms.
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / 100
}

/** The side of a measured child: takes its job, answers with the measurement and ends. */
export function answerParent(run: (job: Job) => Promise<Measurement>): void {
  process.once('disconnect', () => process.exit(1))
  process.once('message', async (job: Job) => {
    try {
      process.send!(await run(job), () => process.exit(0))
    } catch (error) {
      console.error(error)
      process.exit(1)
    }
  })
}
