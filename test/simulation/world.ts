/**
 * A simulated world: processes, the backends that they ask, and what goes wrong between them.
 *
 * Every question to a backend travels, takes effect, and its answer travels back. A seed decides how long each way
 * takes, and whether the question is lost, the answer is lost, or the asking process dies before or after the effect.
 */
import { IngestError } from '../../domain/errors.ts'
import { Random } from './random.ts'
import { type Owner, Timeline } from './timeline.ts'

export type Backend = 'database' | 'store' | 'queue' | 'sftp' | 'network'

/** One life of a simulated process. */
export interface Life extends Owner {
  readonly world: World
  readonly node: string
  /** Services that answer calls now. */
  readonly services: Set<string>
  /** Since when nobody hears of it; Infinity while it is heard. */
  silentSince: number
  /** Called when it dies: sockets are closed by the kernel. */
  readonly onDeath: Set<() => void>
}

export interface FaultPlan {
  /** Chance that one question goes wrong, by backend. */
  errors: Record<Backend, number>
  /** Chance that one takes seconds. */
  slow: number
  /** How many processes die at a question, and the chance at each. */
  crashes: number
  crash: number
  /** How many are stopped there for longer than a lease, and the chance at each. */
  freezes: number
  freeze: number
  /** Whether right before a worker says how it ended, and not before other writes. */
  freezesAtFinish: boolean
  /** What the store takes for a write at most, ms: a long one lets others overtake. */
  writeMs: number
  /** Chance that it dies in the middle of the completion of an upload. */
  storeDeath: number
  /** When all this ends, virtual ms. */
  until: number
}

export interface Question<R> {
  backend: Backend
  what: string
  effect(): R
  /** The error of a question whose fate is unknown. */
  failure(message: string): Error
  signal?: AbortSignal
  /** Beside the usual ways, ms. */
  takesMs?: number
  /** Questions of one line arrive in their order. */
  line?: { at: number }
}

export class World {
  readonly timeline: Timeline
  readonly random: Random
  readonly plan: FaultPlan
  readonly problems: string[] = []
  readonly log: string[] = []
  readonly trace: string[] | null
  readonly outages: { backend: Backend; from: number; to: number }[] = []
  /** Called with a life that died by itself. */
  onCrash: (life: Life) => void = () => {}
  /** Called with a life that was stopped at a question. */
  onFreeze: (life: Life) => void = () => {}
  freezes = 0
  crashes = 0
  faults = 0
  /** Numbers the contents of sources. */
  writes = 0

  constructor(seed: number, plan: (random: Random) => FaultPlan, traced = false) {
    this.random = new Random(seed)
    this.timeline = new Timeline(this.random)
    this.plan = plan(this.random)
    this.trace = traced ? [] : null
  }

  get now(): number {
    return this.timeline.now
  }

  note(text: () => string): void {
    this.trace?.push(`${(this.now / 1000).toFixed(3).padStart(9)} ${text()}`)
  }

  violation(problem: string): void {
    this.note(() => `VIOLATION ${problem}`)
    if (!this.problems.includes(problem)) this.problems.push(problem)
  }

  get isFaulty(): boolean {
    return this.now < this.plan.until
  }

  isDown(backend: Backend): boolean {
    return this.outages.some((one) => one.backend === backend && one.from <= this.now && this.now < one.to)
  }

  newLife(node: string, name: string, skewMs: number): Life {
    const { timeline } = this
    const state = { isDead: false, held: null, silentSince: Number.POSITIVE_INFINITY }
    return { world: this, timeline, node, name, skewMs, services: new Set(), onDeath: new Set(), ...state }
  }

  kill(life: Life, why: string): void {
    if (life.isDead) return
    this.note(() => `${life.name} is killed: ${why}`)
    life.isDead = true
    life.silentSince = Math.min(life.silentSince, this.now)
    this.crashes++
    for (const done of life.onDeath) done()
    this.onCrash(life)
  }

  /** SIGSTOP, and SIGCONT after a while. */
  stop(life: Life, forMs: number): void {
    if (life.held) return
    this.note(() => `${life.name} is stopped`)
    life.held = []
    life.silentSince = this.now
    this.timeline.schedule(Math.min(this.now + forMs, this.plan.until), null, () => this.goOn(life))
  }

  /** Idempotent. */
  goOn(life: Life): void {
    if (!life.held || life.isDead) return
    this.note(() => `${life.name} goes on`)
    life.silentSince = Number.POSITIVE_INFINITY
    this.timeline.release(life)
  }

  /** How long one way takes, ms. */
  wayMs(): number {
    const { random, plan } = this
    if (this.isFaulty && random.chance(plan.slow)) return random.between(50, 7000)
    return random.chance(0.05) ? random.between(2, 60) : random.between(0.2, 2)
  }

  /** Whether the process dies here. */
  #dies(life: Life, what: string): boolean {
    if (!this.isFaulty || this.crashes >= this.plan.crashes || !this.random.chance(this.plan.crash)) return false
    this.kill(life, what)
    return true
  }

  /** Perhaps stops the process before it can say what it was about to; the worst moment is right before a write. */
  mayFreeze(life: Life): void {
    const { plan, random } = this
    if (!this.isFaulty || this.freezes >= plan.freezes || !random.chance(plan.freeze)) return
    this.freezes++
    this.stop(life, random.between(36_000, 70_000))
    this.onFreeze(life)
  }

  ask<R>(life: Life, { backend, what, effect, failure, signal, takesMs = 0, line }: Question<R>): Promise<R> {
    const { timeline, random, plan } = this
    return new Promise<R>((resolve, reject) => {
      if (life.isDead || this.#dies(life, `before ${what}`)) return
      if (takesMs > 0 && !plan.freezesAtFinish) this.mayFreeze(life)
      let isOver = false
      const over = (act: () => void) => {
        if (isOver) return
        isOver = true
        signal?.removeEventListener('abort', aborted)
        act()
      }
      const aborted = () => over(() => reject(cancelled(signal!)))
      if (signal?.aborted) return aborted()
      signal?.addEventListener('abort', aborted, { once: true })
      const answer = (act: () => void) => timeline.schedule(this.now + this.wayMs(), life, () => over(act))
      const fail = (message: string) => {
        this.faults++
        this.note(() => `${life.name} ${what}: ${message}`)
        // A broken connection is known at once, a silent one after the driver's patience.
        const afterMs = random.chance(0.7) ? this.wayMs() : random.between(1000, 9000)
        timeline.schedule(this.now + afterMs, life, () => over(() => reject(failure(message))))
      }
      const arrive = () => {
        // What a process sent before it died may arrive or not.
        if ((life.isDead || isOver) && random.chance(0.5)) return
        if (this.isDown(backend)) return fail(`${backend} is away`)
        const isWrong = this.isFaulty && random.chance(plan.errors[backend])
        if (isWrong && random.chance(0.5)) return fail('the question was lost')
        let result: R
        try {
          result = effect()
        } catch (error) {
          this.note(() => `${life.name} ${what}: ${(error as Error).message}`)
          answer(() => reject(error))
          return
        }
        this.note(() => `${life.name} ${what}`)
        if (isWrong) return fail('the answer was lost')
        if (life.isDead || this.#dies(life, `after ${what}`)) return
        answer(() => resolve(result))
      }
      const send = () => {
        const at = Math.max(this.now + this.wayMs() + takesMs, line?.at ?? 0)
        if (line) line.at = at
        timeline.schedule(at, null, arrive)
      }
      // One that is stopped sends when it goes on.
      if (life.held) timeline.schedule(this.now, life, send)
      else send()
    })
  }
}

/** As the drivers do it: the reason where it is one of ours. */
export function cancelled(signal: AbortSignal): Error {
  const { reason } = signal
  if (reason?.name === 'IngestError') return reason
  return new IngestError('CANCELLED', 'the operation was cancelled', { cause: reason })
}
