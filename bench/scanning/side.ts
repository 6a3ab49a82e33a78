/** A process of the benchmark's own that is told what to do, one call after the other, and measures itself. */
import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'

export interface Side {
  /** Calls a method of the process. */
  ask<T = void>(method: string, argument?: unknown): Promise<T>
  /** SIGKILL: what a crash is. */
  kill(): Promise<void>
  /** Ends it in its own order. */
  stop(): Promise<void>
}

interface Call {
  number: number
  method: string
  argument: unknown
}

interface Answer {
  number: number
  value?: unknown
  error?: string
}

const running = new Set<ChildProcess>()

/** Ends every process that is still there. */
export function killSides(): void {
  for (const child of running) child.kill('SIGKILL')
}

/** `script`: a file of this folder that calls `answer`. */
export function startSide(script: string): Side {
  // As `npm start` has it.
  const env = { ...process.env, NODE_COMPILE_CACHE: join(import.meta.dirname, '../../node_modules/.cache/node') }
  const child = fork(join(import.meta.dirname, script), { env })
  running.add(child)
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>()
  let last = 0
  const gone = new Promise<void>((resolve) => {
    child.once('exit', (code, signal) => {
      running.delete(child)
      for (const { reject } of waiting.values()) reject(new Error(`${script} ended with ${signal ?? code}`))
      resolve()
    })
  })
  child.on('message', ({ number, value, error }: Answer) => {
    const one = waiting.get(number)
    waiting.delete(number)
    if (error === undefined) one?.resolve(value)
    else one?.reject(new Error(`${script}: ${error}`))
  })
  const ask = <T>(method: string, argument?: unknown) =>
    new Promise<T>((resolve, reject) => {
      const number = ++last
      waiting.set(number, { resolve: resolve as (value: unknown) => void, reject })
      child.send({ number, method, argument } satisfies Call)
    })
  return {
    ask,
    async kill() {
      child.kill('SIGKILL')
      await gone
    },
    async stop() {
      if (running.has(child)) await ask('stop')
      if (child.connected) child.disconnect()
      await gone
    }
  }
}

/** The other end: answers the calls of the benchmark, and ends with it. */
export function answer(methods: Record<string, (argument: never) => unknown>): void {
  process.once('disconnect', () => process.exit(0))
  process.on('message', async ({ number, method, argument }: Call) => {
    const reply: Answer = { number }
    try {
      reply.value = await methods[method]!(argument as never)
    } catch (error) {
      reply.error = (error as Error).stack ?? String(error)
    }
    if (process.connected) process.send!(reply)
  })
}

export interface Usage {
  cpuSeconds: number
  /** The most of the process's whole life. */
  peakRssMB: number
  /** The longest time for which the event loop stood still, beside its ticks of 10 ms. */
  longestStallMs: number
}

const RESOLUTION_MS = 10
const loop = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
let cpuAtReset = process.cpuUsage()

/** What this process has used since `resetUsage`. */
export function usage(): Usage {
  const { user, system } = process.cpuUsage(cpuAtReset)
  return {
    cpuSeconds: (user + system) / 1e6,
    peakRssMB: (process.resourceUsage().maxRSS * 1024) / 1e6,
    longestStallMs: Math.max(0, loop.max / 1e6 - RESOLUTION_MS)
  }
}

export function resetUsage(): void {
  cpuAtReset = process.cpuUsage()
  loop.enable()
  loop.reset()
}
