/** One random run: everything is started, faults strike while files arrive, then they end and all must settle. */
import { mkdir } from 'node:fs/promises'
import { loadavg } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { type Consumer, startConsumer } from '../../support/consumer.ts'
import { type Backends, startBackends } from '../../support/longshore.ts'
import { randomOf } from '../../support/random.ts'
import { waitFor } from '../../support/wait.ts'
import { type Fleet, startFleet } from './fleet.ts'
import { type Injected, startNemesis } from './nemesis.ts'
import { startPartner } from './partner.ts'
import { type Evidence, judgeRun, unsettled } from './verdict.ts'

/** Two leases: what must be enough for everything after the last repair, on a machine that is not overloaded. */
export const SETTLE_MS = 60_000
/** How much longer is waited to see whether it settles at all, so that slow and lost are told apart. */
const LOST_AFTER_MS = 240_000

export interface RoundOptions {
  seed: number
  /** How long faults strike. */
  faultsMs: number
  settleMs: number
  largeBytes: number
  mostBytes: number
  log(line: string): void
}

export interface RoundReport {
  seed: number
  seconds: number
  faults: number
  /** How often each was injected. */
  byFault: Record<string, number>
  filesWritten: number
  bytesWritten: number
  objects: number
  bytesStored: number
  /** What came from the SFTP server beyond what is stored: files read again, files that changed, listings, the protocol. */
  bytesReadBeyond: number
  messages: number
  duplicates: number
  settleSeconds: number
  /** Of the machine while it settled, over one minute: on a machine with more to do than it can, time-outs are no wonder. */
  loadAverage: number
  problems: string[]
}

export async function runRound(options: RoundOptions): Promise<RoundReport> {
  const { seed, log } = options
  const startedAt = Date.now()
  const random = randomOf(seed)
  const stops: (() => Promise<unknown>)[] = []
  try {
    const backends = await startBackends({ proxied: 'everything' })
    stops.push(() => backends.stop())
    const consumer = await startConsumer(backends.queue)
    stops.push(() => consumer.close())
    const fleet = await startFleet(backends)
    stops.push(() => fleet.stop())
    const roots = await registerServers(backends, fleet)
    log(`started in ${Math.round((Date.now() - startedAt) / 1000)} s`)
    return await strikeAndSettle({ ...options, startedAt, random, backends, consumer, fleet, roots })
  } finally {
    for (const stop of stops.reverse()) await stop()
  }
}

/** Two servers on one sshd: one whose changes are versions, one whose stored files stay. */
async function registerServers(backends: Backends, fleet: Fleet): Promise<{ versioned: string; kept: string }> {
  const roots = { versioned: `${backends.root}/versioned`, kept: `${backends.root}/kept` }
  for (const [name, root] of Object.entries(roots)) {
    await mkdir(root)
    const policy = { roots: [root], interval: 2, settle: { checks: 2, seconds: 2 }, maxConnections: 3 }
    const onChange = name === 'versioned' ? 'version' : 'ignore'
    await fleet.api(0).post('/servers', backends.server({ name, ...policy, onChange }))
  }
  return roots
}

interface Running extends RoundOptions {
  startedAt: number
  random: ReturnType<typeof randomOf>
  backends: Backends
  consumer: Consumer
  fleet: Fleet
  roots: { versioned: string; kept: string }
}

async function strikeAndSettle(run: Running): Promise<RoundReport> {
  const { backends, fleet, consumer, roots, random, log } = run
  const { largeBytes, mostBytes } = run
  const partner = startPartner({ roots: Object.values(roots), random: random.fork(), largeBytes, mostBytes })
  const nemesis = startNemesis({ backends, fleet, random: random.fork(), log })
  await delay(run.faultsMs)
  await Promise.all([nemesis.stop(), partner.stop()])
  await fleet.all()
  const repairedAt = Date.now()
  log('all is repaired')

  const evidence: Evidence = { backends, fleet, consumer, traces: partner.traces, keptRoot: roots.kept }
  const problems = [...nemesis.problems]
  let open: string[] = []
  let toldAt = repairedAt
  const isSettled = async () => {
    open = unsettled(await fleet.api(0).files(), evidence)
    if (open.length > 0 && Date.now() - toldAt > 10_000) {
      toldAt = Date.now()
      log(
        `${open.length} open ${Math.round((toldAt - repairedAt) / 1000)} s after the repair: ${open.slice(0, 3).join('; ')}`
      )
    }
    return open.length === 0
  }
  await waitFor(isSettled, { timeoutMs: LOST_AFTER_MS, what: 'everything to settle', everyMs: 500 }).catch(
    ({ cause }: Error) => {
      if (cause) problems.push(`the records could not be read: ${(cause as Error).message}`)
    }
  )
  const settleMs = Date.now() - repairedAt
  const [load = 0] = loadavg()
  problems.push(...open)
  if (settleMs > run.settleMs) problems.push(`settled only after ${Math.round(settleMs / 1000)} s`)
  problems.push(...fleet.ownEnds)
  const verdict = await judgeRun(evidence)
  problems.push(...verdict.problems.filter((problem) => !problems.includes(problem)))
  if (problems.length > 0) {
    log(fleet.output())
    for (const record of await fleet.api(0).files()) {
      if (!problems.some((problem) => problem.includes(record.path))) continue
      log(JSON.stringify(await fleet.api(0).get(`/files/${record.id}`)))
    }
  }
  return {
    seed: run.seed,
    seconds: Math.round((Date.now() - run.startedAt) / 1000),
    faults: nemesis.injected.length,
    byFault: countsOf(nemesis.injected),
    filesWritten: partner.written.files,
    bytesWritten: partner.written.bytes,
    objects: verdict.objects,
    bytesStored: verdict.bytes,
    bytesReadBeyond: backends.proxy!.received - verdict.bytes,
    messages: consumer.messages.length,
    duplicates: verdict.duplicates,
    settleSeconds: Math.round(settleMs / 1000),
    loadAverage: Math.round(load),
    problems
  }
}

function countsOf(injected: readonly Injected[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { fault } of injected) counts[fault] = (counts[fault] ?? 0) + 1
  return Object.fromEntries(Object.entries(counts).sort())
}
