/** What a run answers, and the messages between the benchmark and the process that it measures. */

export interface Measurement {
  seconds: number
  cpuSeconds: number
  peakRssMB: number
}

/** One run's source and destination, as every side is told. */
export interface Job {
  files: number
  sizeBytes: number
  sftp: { host: string; port: number; username: string; privateKey: string; keyFile: string; folder: string }
  s3: { endpoint: string; accessKey: string; secretKey: string; bucket: string }
  /** An empty folder of the run's own. */
  dataDir: string
}

/** Measures `work` in this process: its time and CPU, and the peak of the process's whole life. */
export async function measureHere(work: () => Promise<void>): Promise<Measurement> {
  const startedAt = performance.now()
  const cpuBefore = process.cpuUsage()
  await work()
  const seconds = (performance.now() - startedAt) / 1000
  const { user, system } = process.cpuUsage(cpuBefore)
  return { seconds, cpuSeconds: (user + system) / 1e6, peakRssMB: (process.resourceUsage().maxRSS * 1024) / 1e6 }
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
