import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process'
import { access, constants, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'

export interface RunningProcess {
  readonly pid: number
  /** Everything that it wrote so far, both streams together; the last 256 KiB of it. */
  output(): string
  /** Ends it by its pid and waits until it is gone: `signal` first, SIGKILL when it is still there after a minute. Idempotent. */
  stop(signal?: NodeJS.Signals): Promise<void>
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

export interface StartOptions {
  /** Added to this process's environment. */
  env?: Record<string, string>
  cwd?: string
  /** A line of its output, or a question asked every 50 ms about it and its output, that says it may be used. */
  ready?: RegExp | ((output: string) => Promise<boolean>)
  /** Hears all that it writes, each time after the end of what came before. */
  listen?: (text: string) => void
  /** Gives it an end of input to read when this process ends; by default there is nothing to read from the beginning. */
  hasInput?: boolean
}

/**
 * What any program may take until it is ready: on a machine with more to do than it can, seconds become minutes. One
 * that ends instead is not waited for. Jest's time-out has to be longer (jest.config.mjs).
 */
export const START_MS = 180_000
/** Twice what Longshore itself gives its work in flight, so that none of it is cut off on a slow machine. */
const STOP_MS = 60_000
/** What was looked for may come in two pieces. */
const LISTENED_BEFORE = 512
/** Of a program that did not start, what is shown. */
const LAST_LINES = 40

/**
 * Ends a program when whoever started it is gone, however that went: a server that outlives its tests would keep its
 * memory and its port. Jest hides the end of its workers from the tests, so an `exit` listener of ours is not enough.
 */
const setpriv = await onPath('setpriv')
const tether = setpriv ? [setpriv, '--pdeathsig', 'KILL', '--'] : []

const running = new Set<ChildProcess>()
// Where there is no such program.
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** Starts a program and waits until it is ready; rejects with what it wrote when it ends or stays silent instead. */
export async function startProcess(
  command: string,
  args: string[],
  options: StartOptions = {}
): Promise<RunningProcess> {
  const [program, ...words] = [...tether, command, ...args]
  const child = spawn(program!, words, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: [options.hasInput ? 'pipe' : 'ignore', 'pipe', 'pipe']
  }) as ChildProcessByStdio<Writable | null, Readable, Readable>
  running.add(child)
  let output = ''
  let onOutput: () => void = () => {}
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      options.listen?.(output.slice(-LISTENED_BEFORE) + text)
      output = (output + text).slice(-256 * 1024)
      onOutput()
    })
  }
  let ended = false
  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    const end = (code: number | null, signal: NodeJS.Signals | null) => {
      ended = true
      running.delete(child)
      resolve({ code, signal })
      onOutput()
    }
    child.once('exit', end)
    child.once('error', (error) => {
      output += `${error.message}\n`
      if (child.pid === undefined) end(null, null)
    })
  })
  const started: RunningProcess = {
    pid: child.pid ?? -1,
    output: () => output,
    exited,
    async stop(signal = 'SIGTERM') {
      if (ended) return
      child.kill(signal)
      const deadline = setTimeout(() => child.kill('SIGKILL'), STOP_MS)
      await exited
      clearTimeout(deadline)
    }
  }

  const giveUpAt = Date.now() + START_MS
  const { ready } = options
  if (ready instanceof RegExp) {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, START_MS)
      onOutput = () => {
        if (!ended && !ready.test(output)) return
        clearTimeout(timer)
        resolve()
      }
      onOutput()
    })
    onOutput = () => {}
    if (ended || !ready.test(output)) await failed()
  } else if (ready) {
    while (!ended && !(await ready(output).catch(() => false))) {
      if (Date.now() > giveUpAt) await failed()
      await delay(50)
    }
    if (ended) await failed()
  } else if (child.pid === undefined) {
    await exited
    await failed()
  }
  return started

  async function failed(): Promise<never> {
    const what = ended ? 'ended instead of starting' : `not ready in ${START_MS} ms`
    await started.stop('SIGKILL')
    throw new Error(
      `${command} ${what}; its last lines:\n${output.trimEnd().split('\n').slice(-LAST_LINES).join('\n')}`
    )
  }
}

/** Stops a server whose sessions are processes in groups of their own, which would outlive it. */
export async function stopWithSessions(server: RunningProcess): Promise<void> {
  const sessions = await descendants(server.pid)
  await server.stop()
  for (const pid of sessions) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // Gone by itself meanwhile.
    }
  }
}

async function descendants(pid: number): Promise<number[]> {
  const found: number[] = []
  const parents = new Map<number, number>()
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '')
    parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]))
  }
  for (const child of parents.keys()) {
    for (let at: number | undefined = parents.get(child); at; at = parents.get(at)) {
      if (at === pid) found.push(child)
    }
  }
  return found
}

/** A new empty folder and the way to be rid of it. */
export async function temporaryFolder(
  prefix: string,
  parent = tmpdir()
): Promise<{ path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(parent, `longshore-${prefix}-`))
  return { path, remove: () => rm(path, { recursive: true, force: true, maxRetries: 5 }) }
}

/** Where built programs are kept from one run to the next. */
export function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'longshore')
}

/** The path of a program on PATH, or null. */
export async function onPath(name: string): Promise<string | null> {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']
  for (const folder of folders) {
    if (folder && (await isProgram(join(folder, name)))) return join(folder, name)
  }
  return null
}

/** Whether there is a program at this path. */
export async function isProgram(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false
  )
}
