/** One run of a seed: a world, its trouble, the end of the trouble, and the verdict. */
import type { ServiceBroker } from 'moleculer'
import type { ServiceName } from '../../config.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import { OWN_PREFIX } from '../../domain/filter.ts'
import { isMarker } from '../../domain/marker.ts'
import type { ServerRecord } from '../../domain/server.ts'
import { parseNewServer } from '../../domain/server-input.ts'
import { seal } from '../../drivers/secrets.ts'
import { judge, type Rules } from '../support/invariants.ts'
import { SimulatedDatabase } from './database.ts'
import { Network } from './network.ts'
import { type Backends, config, createProcess, stopProcess } from './node.ts'
import { Operator } from './operator.ts'
import { Writer } from './partners.ts'
import { SimulatedQueue } from './queue.ts'
import { Random } from './random.ts'
import { type Policy, planOf, type Scenario, scenarioOf, type Wish } from './scenario.ts'
import { SftpServers } from './sftp.ts'
import { type Partner, snapshotOf } from './snapshot.ts'
import { SourceServer } from './sources.ts'
import { SimulatedStore } from './store.ts'
import { as, install } from './timeline.ts'
import { watch } from './watch.ts'
import { type Backend, type Life, World } from './world.ts'

const TWO_LEASES_MS = 60_000
const DAY_MS = 24 * 3600_000

export interface RunResult {
  seed: number
  problems: string[]
  /** The same for every run of the seed. */
  digest: string
  trace: string[]
  files: number
  messages: number
  duplicates: number
  crashes: number
  faults: number
  /** From the end of all trouble until everything was as it should be, virtual ms. */
  settledMs: number
  virtualMs: number
  steps: number
}

interface Process {
  node: string
  services: ServiceName[]
  skewMs: number
  life: Life | null
  broker: ServiceBroker | null
  lives: number
}

export interface RunOptions {
  /** Tells what happened, too. */
  traced?: boolean
  /** By default the seed chooses. */
  wish?: Wish
}

export async function simulate(seed: number, options: RunOptions = {}): Promise<RunResult> {
  install()
  const run = new Run(seed, options)
  return run.toTheEnd()
}

class Run {
  readonly #seed: number
  readonly #scenario: Scenario
  readonly #world: World
  readonly #random: Random
  readonly #backends: Backends
  readonly #processes: Process[]
  readonly #partners: Partner[] = []
  readonly #writers: Writer[] = []
  readonly #operator: Operator
  readonly #rules: Rules

  constructor(seed: number, { traced = false, wish }: RunOptions) {
    this.#seed = seed
    const chooser = new Random(seed ^ 0x5eed)
    this.#scenario = scenarioOf(chooser, wish)
    const world = new World(seed, () => planOf(chooser, this.#scenario), traced)
    this.#world = world
    this.#random = world.random
    this.#backends = {
      world,
      network: new Network(world),
      database: new SimulatedDatabase(world),
      store: new SimulatedStore(world),
      queue: new SimulatedQueue(world),
      sftp: new SftpServers(world)
    }
    this.#processes = Object.entries(this.#scenario.topology).map(([node, services]) => this.#process(node, services))
    for (const { name, policy } of this.#scenario.servers) {
      const source = new SourceServer(world, `id-${name}`, name, ['/out', '/out/deep'])
      this.#partners.push({ source, removed: null, policy, takes: takenBy(policy) })
      this.#backends.sftp.add(source)
      this.#writers.push(new Writer(world, source, policy.marker))
      world.note(() => `${name} has the policy ${JSON.stringify(policy)}`)
    }
    this.#operator = new Operator(this.#backends, this.#partners)
    this.#rules = {
      end: 'settled',
      versioned: (id) => this.#scenario.servers.find(({ name }) => `id-${name}` === id)!.policy.onChange === 'version',
      skewMs: 2 * this.#scenario.ownerSkewMs + (world.plan.slow > 0 ? 15_000 : 100)
    }
    watch(this.#backends, this.#partners, this.#scenario)
    world.note(() => `the scenario is ${JSON.stringify(this.#scenario)}, the plan ${JSON.stringify(world.plan)}`)
  }

  async toTheEnd(): Promise<RunResult> {
    const world = this.#world
    world.onCrash = (life) => this.#startAgain(life)
    world.onFreeze = (life) => this.#overtake(life)
    for (const process of this.#processes) this.#start(process)
    this.#trouble()
    this.#register()
    await world.timeline.run(this.#scenario.faultsMs)
    await this.#heal()
    const settledMs = await this.#settle()
    if (world.problems.length === 0) await this.#stopAll()
    if (world.problems.length === 0) await this.#sweep()
    const { queue, database } = this.#backends
    const { duplicates } = judge(snapshotOf(this.#backends, this.#partners), this.#rules)
    for (const { life } of this.#processes) if (life) life.isDead = true
    this.#operator.end()
    return {
      seed: this.#seed,
      problems: world.problems,
      digest: (world.timeline.digest >>> 0).toString(16).padStart(8, '0'),
      trace: world.trace ?? [],
      files: database.collection('files').documents.size,
      messages: queue.delivered.length,
      duplicates,
      crashes: world.crashes,
      faults: world.faults,
      settledMs,
      virtualMs: Math.round(world.now),
      steps: world.timeline.steps
    }
  }

  #process(node: string, services: ServiceName[]): Process {
    const isOwner = services.includes('files') || services.includes('servers')
    const most = isOwner ? this.#scenario.ownerSkewMs : this.#scenario.workerSkewMs
    const skewMs = Math.round(this.#random.between(-most, most))
    return { node, services, skewMs, life: null, broker: null, lives: 0 }
  }

  #start(process: Process): void {
    const name = `${process.node}-${++process.lives}`
    const life = this.#world.newLife(process.node, name, process.skewMs)
    process.life = life
    this.#world.note(() => `${name} starts`)
    const broker = createProcess(life, process.services, this.#backends)
    process.broker = broker
    as(life, () =>
      broker.start().catch((error: Error) => this.#world.violation(`${name} did not start: ${error.message}`))
    )
  }

  #startAgain(life: Life): void {
    const process = this.#processes.find((one) => one.life === life)
    if (!process) return
    const afterMs = this.#world.isFaulty ? this.#random.between(100, 12_000) : 100
    this.#at(afterMs, () => {
      if (process.life === life) this.#start(process)
    })
  }

  /**
   * While a worker is stopped, what it was copying changes, so that another one copies something else. It goes on when
   * its last words do most harm: a report in the middle of the other's copy, a write after that was stored.
   */
  #overtake(life: Life): void {
    const { documents } = this.#backends.database.collection<FileRecord>('files')
    const isHeld = ({ status, worker }: FileRecord) => status === 'downloading' && worker?.startsWith(`${life.name}/`)
    const held = [...documents.values()].filter(isHeld)
    for (const { serverId, path } of held) {
      const index = this.#partners.findIndex(({ source }) => source.id === serverId)
      this.#at(this.#random.between(0, 10_000), () => this.#writers[index]!.drop(path))
    }
    const lookOut = () => {
      const isOvertaken = held.some(({ _id, epoch }) => {
        const now = documents.get(_id)!
        const isUnderWay = now.status === 'downloading'
        return now.epoch > epoch && isUnderWay === this.#world.plan.freezesAtFinish
      })
      if (isOvertaken) this.#at(this.#random.between(0, this.#world.plan.writeMs), () => this.#world.goOn(life))
      else if (life.held) this.#at(50, lookOut)
    }
    if (held.length > 0) lookOut()
  }

  #at(afterMs: number, act: () => void): void {
    this.#world.timeline.schedule(this.#world.now + afterMs, null, act)
  }

  /** `times` times, at random moments of the trouble. */
  #sometimes(times: number, act: () => void): void {
    for (let i = 0; i < times; i++) this.#at(this.#random.between(0, this.#scenario.faultsMs), act)
  }

  #register(): void {
    for (const { name, policy } of this.#scenario.servers) {
      const { source } = this.#partners.find((one) => one.source.name === name)!
      const body = { name, host: name, username: 'u', password: source.password, roots: ['/out'], ...policy }
      const { input, secrets } = parseNewServer(body)
      const sealed = { password: seal(config.encryptionKey, secrets.password!, `${source.id}:password`) }
      this.#operator.create({ id: source.id, input, secrets: sealed })
    }
  }

  #trouble(): void {
    const { fileEvents, operatorEvents, removals, stops, kills, cuts, partitions, outages, faultsMs } = this.#scenario
    const random = this.#random
    const world = this.#world
    for (const writer of this.#writers) for (let i = 0; i < 3; i++) writer.drop()
    this.#sometimes(fileEvents, () => random.pick(this.#writers).event())
    this.#sometimes(operatorEvents, () => this.#operator.act())
    this.#sometimes(removals, () => this.#operator.remove())
    this.#sometimes(kills, () => {
      const { life } = random.pick(this.#processes)
      if (life) world.kill(life, 'by the nemesis')
    })
    this.#sometimes(stops, () => {
      const { life } = random.pick(this.#processes)
      if (life && !life.isDead) world.stop(life, random.between(1_000, 80_000))
    })
    this.#sometimes(cuts, () => {
      const { connections } = this.#backends.sftp
      if (connections.size > 0) random.pick([...connections]).cut()
    })
    this.#sometimes(partitions, () => {
      this.#backends.network.partition(random.pick(this.#processes).node, random.between(1_000, 50_000))
    })
    for (let i = 0; i < outages; i++) {
      const from = random.between(0, faultsMs)
      const backend = random.pick<Backend>(['database', 'store', 'queue', 'sftp'])
      world.outages.push({ backend, from, to: Math.min(faultsMs, from + random.between(500, 40_000)) })
    }
  }

  /** The end of all trouble: everything runs, everything is there. */
  async #heal(): Promise<void> {
    const world = this.#world
    world.note(() => 'the trouble ends')
    this.#backends.network.heal()
    for (const writer of this.#writers) writer.allow()
    for (const process of this.#processes) {
      const { life } = process
      if (!life || life.isDead) this.#start(process)
    }
    this.#operator.heal()
    // Writers finish what they write.
    await world.timeline.run(world.now + 6_000, () => this.#writers.every((writer) => writer.open.size === 0))
    if (this.#scenario.servers.every(({ policy }) => policy.marker === null)) return
    await world.timeline.run(world.now + 2_000)
    for (const writer of this.#writers) writer.mark()
  }

  /** How long until all is well; at most two leases, and what records and servers were told to wait. */
  async #settle(): Promise<number> {
    const world = this.#world
    const from = world.now
    const { documents: files } = this.#backends.database.collection<FileRecord>('files')
    const { documents: servers } = this.#backends.database.collection<ServerRecord>('servers')
    const waits = [
      ...[...files.values()]
        .filter(({ status }) => status === 'pending' || status === 'settling')
        .map(({ dueAt }) => dueAt),
      ...[...files.values()].map(({ afterUpload }) => afterUpload?.dueAt ?? 0),
      // After that no worker holds anything of a removed server.
      ...[...servers.values()].map(({ deletedAt }) => (deletedAt ?? 0) + TWO_LEASES_MS),
      ...[...servers.values()].map(({ nextScanAt }) => nextScanAt)
    ].map((at) => at - world.timeline.date)
    const settling = Math.max(...this.#scenario.servers.map(({ policy }) => policy.settle.seconds * 1000))
    const giveUp = from + TWO_LEASES_MS + Math.max(0, ...waits) + settling
    for (;;) {
      await world.timeline.run(world.now + 1_000)
      const { problems } = judge(snapshotOf(this.#backends, this.#partners), this.#rules)
      if (problems.length === 0 || world.problems.length > 0) return world.now - from
      if (world.now > giveUp) {
        for (const problem of problems) world.violation(problem)
        for (const server of servers.values()) world.note(() => `at ${world.timeline.date}: ${JSON.stringify(server)}`)
        for (const file of files.values()) world.note(() => JSON.stringify(file))
        return world.now - from
      }
    }
  }

  /** A graceful stop gives back what is held. */
  async #stopAll(): Promise<void> {
    const world = this.#world
    let left = this.#processes.length
    for (const { life, broker } of this.#processes) void stopProcess(life!, broker!).then(() => left--)
    // A real process ends itself after 30 s, and leaves its leases to run out: where all that it would hand something back
    // to is gone, a stop takes about as long.
    await world.timeline.run(world.now + 45_000, () => left === 0)
    if (left > 0) world.violation(`${left} processes did not stop`)
    // Their last words travel.
    await world.timeline.run(world.now + 1_000)
    for (const { source } of this.#partners) {
      if (source.connections > 0) world.violation(`${source.connections} connections to ${source.name} are left`)
    }
    for (const { life } of this.#processes) life!.isDead = true
  }

  /** A day later nobody goes on with an upload that was left. */
  async #sweep(): Promise<void> {
    const world = this.#world
    if (this.#backends.store.uploads.size === 0) return
    await world.timeline.run(world.now + DAY_MS + 1_000)
    const process = this.#process('sweeper', ['servers', 'files', 'storage'])
    this.#processes.push(process)
    this.#start(process)
    await world.timeline.run(world.now + 10_000)
    const { problems } = judge(snapshotOf(this.#backends, this.#partners), { ...this.#rules, isSwept: true })
    for (const problem of problems) world.violation(problem)
  }
}

/** Whether the policy takes a file of this name. */
function takenBy({ marker, afterUpload }: Policy): (path: string) => boolean {
  const isMoved = (path: string) => afterUpload !== 'keep' && path.startsWith('/out/taken/')
  return (path) => {
    const name = path.slice(path.lastIndexOf('/') + 1)
    const isPassedOver = name.endsWith('.part') || name.startsWith(OWN_PREFIX) || (marker && isMarker(marker, name))
    return !isPassedOver && path.startsWith('/out/') && !isMoved(path)
  }
}
