import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, constants, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

export interface RunningProcess {
  readonly pid: number
  /** Everything that it wrote so far, both streams together; the last 256 KiB of it. */
  output(): string
  /** Ends it by its pid and waits until it is gone: `signal` first, SIGKILL when it is still there after 10 s. Idempotent. */
  stop(signal?: NodeJS.Signals): Promise<void>
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

export interface StartOptions {
  /** Added to this process's environment. */
  env?: Record<string, string>
  cwd?: string
  /** A line of its output, or a question asked every 50 ms about it and its output, that says it may be used. */
  ready?: RegExp | ((output: string) => Promise<boolean>)
  timeoutMs?: number
}

const running = new Set<ChildProcess>()
// The last resort when a test run dies half way: a server that outlives it would keep its port and its memory.
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** Starts a program and waits until it is ready; rejects with what it wrote when it ends or stays silent instead. */
export async function startProcess(
  command: string,
  args: string[],
  options: StartOptions = {}
): Promise<RunningProcess> {
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  running.add(child)
  let output = ''
  let onOutput: () => void = () => {}
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
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
      const deadline = setTimeout(() => child.kill('SIGKILL'), 10_000)
      await exited
      clearTimeout(deadline)
    }
  }

  const timeoutMs = options.timeoutMs ?? 30_000
  const giveUpAt = Date.now() + timeoutMs
  const { ready } = options
  const failure = () => new Error(`${command} ${ended ? 'ended' : `not ready in ${timeoutMs} ms`}:\n${output}`)
  if (ready instanceof RegExp) {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs)
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
    const error = failure()
    await started.stop('SIGKILL')
    throw error
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

const lastPorts = new Set<number>()

/** A loopback port that nothing listens on and that this process has not handed out yet. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = await new Promise<number>((resolve, reject) => {
      const server = createServer().once('error', reject)
      server.listen(0, '127.0.0.1', () => {
        const address = server.address() as { port: number }
        server.close(() => resolve(address.port))
      })
    })
    if (lastPorts.has(port)) continue
    lastPorts.add(port)
    return port
  }
}

/** Whether something on loopback takes a connection on this port now. */
export async function accepts(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
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
