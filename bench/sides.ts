/** Who is measured: each side copies one job and answers what it took. */
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { goBinary, pinnedVersion } from '../test/support/go-programs.ts'
import { nodeEnvironment, nodeOptions } from '../test/support/node-options.ts'
import type { Job, Measurement } from './measurement.ts'

/** The newest release when the goals were set. */
export const rcloneVersion = pinnedVersion('rclone')

/** How often a foreign process's peak memory is read: the kernel keeps the peak, so only the last moment can be missed. */
const SAMPLE_MS = 50

let current: ChildProcess | null = null

/** Ends the run that is under way, which then rejects. */
export function interrupt(): void {
  // With all that it started: rclone is the child of a shell.
  if (current?.pid && current.exitCode === null && current.signalCode === null) process.kill(-current.pid, 'SIGKILL')
}

/** `begins`: called when what is measured begins, after the rounds before. */
export function longshore(job: Job, profileDir: string | null, begins: () => void): Promise<Measurement> {
  const profile = profileDir === null ? [] : ['--cpu-prof', `--cpu-prof-dir=${profileDir}`]
  return inChild('longshore-side.ts', job, [...nodeOptions, ...profile], begins)
}

export function naive(job: Job): Promise<Measurement> {
  return inChild('naive-side.ts', job, [])
}

async function inChild(script: string, job: Job, execArgv: string[], begins?: () => void): Promise<Measurement> {
  const env = { ...process.env, ...nodeEnvironment }
  const child = fork(join(import.meta.dirname, script), { execArgv, env, detached: true })
  current = child
  const ended = new Promise<never>((_, reject) => {
    child.once('exit', (code, signal) => reject(new Error(`${script} ended with ${signal ?? code} and no answer`)))
  })
  const answered = new Promise<Measurement>((resolve) => {
    child.on('message', (said) => (said === 'begins' ? begins?.() : resolve(said as Measurement)))
  })
  const gone = new Promise((resolve) => child.once('exit', resolve))
  child.send(job)
  const measured = await Promise.race([answered, ended])
  await gone
  return measured
}

/**
 * `rclone copy` with its defaults but for `transfers`. It is spared the checksum of the source over a shell, which an
 * SFTP server of a partner does not offer. Its CPU time is what the shell that waits for it is told by the kernel.
 */
export async function rclone(job: Job, transfers: number): Promise<Measurement> {
  const { host, port, username, keyFile, folder } = job.sftp
  const { endpoint, accessKey, secretKey, bucket } = job.s3
  const remotes = {
    SOURCE_TYPE: 'sftp',
    SOURCE_HOST: host,
    SOURCE_PORT: String(port),
    SOURCE_USER: username,
    SOURCE_KEY_FILE: keyFile,
    SOURCE_SHELL_TYPE: 'none',
    SOURCE_DISABLE_HASHCHECK: 'true',
    STORE_TYPE: 's3',
    STORE_PROVIDER: 'Minio',
    STORE_ENDPOINT: endpoint,
    STORE_ACCESS_KEY_ID: accessKey,
    STORE_SECRET_ACCESS_KEY: secretKey
  }
  const named = Object.entries(remotes).map(([name, value]) => [`RCLONE_CONFIG_${name}`, value])
  const env = { ...process.env, RCLONE_CONFIG: join(job.dataDir, 'rclone.conf'), ...Object.fromEntries(named) }
  const binary = await goBinary('rclone')
  const copy = [binary, 'copy', '--transfers', String(transfers), `source:${folder}`, `store:${bucket}`]
  const startedAt = performance.now()
  const shell = spawn('bash', ['-c', 'TIMEFORMAT="cpu %U %S"; time "$@"', 'bash', ...copy], {
    env,
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe']
  })
  current = shell
  let peakKiB = 0
  const sample = setInterval(async () => {
    const child = (await read(`/proc/${shell.pid}/task/${shell.pid}/children`)).trim()
    const peak = /VmHWM:\s+(\d+)/.exec(child ? await read(`/proc/${child}/status`) : '')
    if (peak) peakKiB = Math.max(peakKiB, Number(peak[1]))
  }, SAMPLE_MS)
  const exited = new Promise<number | null>((resolve) => shell.once('exit', resolve))
  const said = await text(shell.stderr)
  const code = await exited
  const seconds = (performance.now() - startedAt) / 1000
  clearInterval(sample)
  const cpu = /^cpu ([\d.]+) ([\d.]+)$/m.exec(said)
  if (code !== 0 || !cpu) throw new Error(`rclone ended with ${code}: ${said}`)
  return { seconds, cpuSeconds: Number(cpu[1]) + Number(cpu[2]), peakRssMB: (peakKiB * 1024) / 1e6 }
}

function read(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '')
}
