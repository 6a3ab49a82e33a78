/** What a seed makes of a run: which processes there are, what the partners do, what the operators do, what goes wrong. */
import type { ServiceName } from '../../config.ts'
import type { MarkerPolicy } from '../../domain/marker.ts'
import type { AfterUploadPolicy } from '../../domain/server.ts'
import type { Random } from './random.ts'
import type { FaultPlan } from './world.ts'

const ALL: ServiceName[] = ['servers', 'files', 'scanner', 'transfer', 'storage', 'notifier']

/** Processes by name, with the services of each. */
const topologies: Record<string, ServiceName[]>[] = [
  { all: ALL },
  { one: ALL, two: ALL },
  { owner: ['servers', 'files'], worker: ['scanner', 'transfer'], rest: ['storage', 'notifier'] },
  {
    owner: ['servers', 'files'],
    owner2: ['servers', 'files'],
    worker: ['scanner', 'transfer', 'notifier'],
    worker2: ['scanner', 'transfer', 'notifier', 'storage']
  },
  {
    servers: ['servers'],
    files: ['files'],
    scanner: ['scanner'],
    transfer: ['transfer'],
    transfer2: ['transfer'],
    rest: ['storage', 'notifier']
  }
]

/** Cron expressions, and the time between two of their ticks. */
const crons = new Map([
  ['*/5 * * * * *', 5_000],
  ['*/20 * * * * *', 20_000],
  ['* * * * *', 60_000]
])

export function cronGapMs(cron: string): number {
  return crons.get(cron)!
}

export interface Policy {
  settle: { checks: number; seconds: number }
  interval?: number
  cron?: string
  marker: MarkerPolicy | null
  afterUpload: AfterUploadPolicy
  maxConnections: number
  onChange: 'ignore' | 'version'
  checksum: 'crc32' | 'sha256'
  emptyFiles: 'take' | 'skip'
  maxSize: number | null
}

export interface Scenario {
  /**
   * Nothing goes wrong, but that a worker is stopped for longer than a lease at the worst moment, and another one has
   * overtaken it when it goes on.
   */
  isDuel: boolean
  /** Nothing goes wrong but that processes die: connections are counted then. */
  isCalm: boolean
  /** Every server has its files deleted or moved, among deaths and errors in the middle of it. */
  isClearing: boolean
  topology: Record<string, ServiceName[]>
  faultsMs: number
  servers: { name: string; policy: Policy }[]
  /** Things that happen to files, to be chosen from a number of times. */
  fileEvents: number
  operatorEvents: number
  /** Whether an operator removes a server in the middle of it all. */
  removals: number
  stops: number
  kills: number
  cuts: number
  partitions: number
  outages: number
  /** What clocks may differ by, ms: of those who own records, and of workers. */
  ownerSkewMs: number
  workerSkewMs: number
}

/** The kind of a scenario, where the seed is not to choose. */
export type Wish = 'duel' | 'calm' | 'clearing'

export function scenarioOf(random: Random, wish?: Wish): Scenario {
  const isClearing = wish === 'clearing'
  const kind = isClearing ? null : (wish ?? random.pick<Wish | null>(['duel', 'calm', ...Array<null>(14).fill(null)]))
  const isDuel = kind === 'duel'
  const isCalm = kind === 'calm'
  const faultsMs = isDuel || isClearing ? 90_000 : random.pick([15_000, 15_000, 30_000, 40_000])
  const many = (most: number) => (kind !== null || random.chance(0.4) ? 0 : random.whole(1, most))
  const names = random.chance(0.3) ? ['alpha', 'beta'] : ['alpha']
  return {
    isDuel,
    isCalm,
    isClearing,
    topology: random.pick(kind !== null ? topologies.filter(hasTwoWorkers) : topologies),
    faultsMs,
    servers: names.map((name) => ({ name, policy: policyOf(random, isClearing) })),
    fileEvents: random.whole(6, 16),
    operatorEvents: many(6),
    removals: kind === null && random.chance(0.12) ? 1 : 0,
    stops: many(2),
    kills: many(3),
    cuts: many(3),
    partitions: many(2),
    outages: many(2),
    ownerSkewMs: random.pick([0, 0, 2_000]),
    workerSkewMs: random.pick([0, 0, 2_000, 3_600_000])
  }
}

function hasTwoWorkers(topology: Scenario['topology']): boolean {
  return Object.values(topology).filter((services) => services.includes('transfer')).length > 1
}

function policyOf(random: Random, isClearing: boolean): Policy {
  return {
    settle: random.pick([
      { checks: 1, seconds: 0 },
      { checks: 2, seconds: 3 },
      { checks: 3, seconds: 6 }
    ]),
    ...(random.chance(0.15) ? { cron: random.pick([...crons.keys()]) } : { interval: random.pick([2, 5, 12]) }),
    marker: random.chance(0.15) ? random.pick<MarkerPolicy>([{ suffix: '.done' }, { file: '_READY' }]) : null,
    afterUpload:
      isClearing || random.chance(0.25)
        ? random.pick<AfterUploadPolicy>(['delete', { move: 'taken' }, { move: '/archive' }])
        : 'keep',
    maxConnections: random.whole(1, 3),
    onChange: random.pick(['ignore', 'version']),
    checksum: random.chance(0.2) ? 'sha256' : 'crc32',
    emptyFiles: random.pick(['take', 'skip']),
    maxSize: random.chance(0.2) ? 30 * 1024 * 1024 : null
  }
}

export function planOf(random: Random, { isDuel, isCalm, isClearing, faultsMs }: Scenario): FaultPlan {
  if (isDuel) {
    // Some answers of the store are lost, so that what a worker began too late is not always taken back by it.
    const errors = { database: 0, store: random.pick([0, 0.3]), queue: 0, sftp: 0, network: 0 }
    const freezing = { freezes: 3, freezesAtFinish: random.chance(0.5), freeze: 0.5, writeMs: 9_000 }
    return { errors, slow: 0, crashes: 0, crash: 0, storeDeath: 0, ...freezing, until: faultsMs }
  }
  const rate = () => (isCalm || random.chance(0.5) ? 0 : random.pick([0.005, 0.02, 0.06]))
  const crashes = !isClearing && random.chance(0.35) ? 0 : random.whole(1, 5)
  return {
    errors: { database: rate(), store: rate(), queue: 4 * rate(), sftp: isClearing ? 0.01 : rate(), network: rate() },
    slow: isCalm ? 0 : random.pick([0, 0, 0.01, 0.03]),
    crashes,
    crash: crashes === 0 ? 0 : random.pick([0.002, 0.005, 0.02]),
    freezes: 0,
    freezesAtFinish: false,
    freeze: 0,
    writeMs: random.pick([5, 100, 2_000]),
    storeDeath: isCalm ? 0 : random.pick([0, 0.5]),
    until: faultsMs
  }
}
