/** Seeds, spread over a few processes. */
import { type ChildProcess, fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { RunResult } from './run.ts'
import type { Wish } from './scenario.ts'

export interface PoolOptions {
  first: number
  count: number
  /** By default one a processor. */
  processes?: number
  /** The name of one of `mutations.ts`. */
  mutation?: string
  /** Ends at once when this many seeds have failed. */
  enough?: number
  traced?: boolean
  /** The kind of scenario; by default the seed chooses. */
  wish?: Wish
  /** Answers every run, and not those that failed only. */
  keep?: boolean
}

export interface PoolResult {
  seeds: number
  /** By seed. */
  failed: RunResult[]
  /** All of them, with `keep`. */
  runs: RunResult[]
  files: number
  messages: number
  duplicates: number
  crashes: number
  faults: number
  /** Of the slowest seed. */
  settledMs: number
  virtualMs: number
  steps: number
}

const AT_ONCE = 20

/** Rejects when a process ends by itself: the simulation is broken then, and not a seed. */
export async function runSeeds(options: PoolOptions): Promise<PoolResult> {
  const { first, count, enough = Number.POSITIVE_INFINITY, traced = false, wish } = options
  const total: PoolResult = {
    ...{ seeds: 0, failed: [], runs: [], files: 0, messages: 0, duplicates: 0 },
    ...{ crashes: 0, faults: 0, settledMs: 0, virtualMs: 0, steps: 0 }
  }
  const children = new Set<ChildProcess>()
  let next = first
  const end = first + count
  const take = (result: RunResult) => {
    total.seeds++
    if (result.problems.length > 0) total.failed.push(result)
    if (options.keep) total.runs.push(result)
    for (const name of ['files', 'messages', 'duplicates', 'crashes', 'faults', 'virtualMs', 'steps'] as const)
      total[name] += result[name]
    total.settledMs = Math.max(total.settledMs, result.settledMs)
    // What they are in the middle of tells nothing more.
    if (total.failed.length >= enough) for (const child of children) child.kill()
  }
  const order = (child: ChildProcess): boolean => {
    if (next >= end || total.failed.length >= enough) return false
    const seeds = Math.min(AT_ONCE, end - next)
    child.send({ first: next, count: seeds, traced, wish })
    next += seeds
    return true
  }
  const processes = Math.min(options.processes ?? availableParallelism(), Math.ceil(count / AT_ONCE))
  await Promise.all(Array.from({ length: processes }, () => runProcess(options.mutation, children, order, take)))
  total.failed.sort((a, b) => a.seed - b.seed)
  return total
}

function runProcess(
  mutation: string | undefined,
  children: Set<ChildProcess>,
  order: (child: ChildProcess) => boolean,
  take: (result: RunResult) => void
): Promise<void> {
  return new Promise((resolve, reject) => {
    const execArgv = ['--disable-warning=ExperimentalWarning']
    const child = fork(join(import.meta.dirname, 'worker.ts'), mutation ? [mutation] : [], {
      execArgv,
      stdio: 'inherit'
    })
    children.add(child)
    child.on('message', (message: RunResult | 'ready' | 'done') => {
      if (child.killed) return
      if (typeof message === 'object') take(message)
      else if (!order(child)) child.disconnect()
    })
    child.once('error', reject)
    child.once('exit', (code) =>
      code === 0 || child.killed ? resolve() : reject(new Error(`a simulating process ended with ${code}`))
    )
  })
}
