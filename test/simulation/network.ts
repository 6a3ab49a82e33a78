/**
 * Real Moleculer brokers without a transporter, and between them a network as NATS makes it: a request or an answer may
 * be lost or late, an event comes at most once, a process that is silent for 6 s is taken for gone, and what was asked of
 * it is rejected then. A middleware sends what the own process does not answer to another one.
 */
import { Errors, type Middleware, type ServiceBroker } from 'moleculer'
import { as } from './timeline.ts'
import type { Life, World } from './world.ts'

const SILENCE_MS = 6_000
const REQUEST_MS = 5_000

interface Joined {
  life: Life
  broker: ServiceBroker
  /** What the middleware found there: the broker's own. */
  local: { emit: Emit; broadcastLocal: Emit }
}

type Call = (action: string, params?: unknown, options?: CallOptions) => Promise<unknown>
type Emit = (event: string, payload?: unknown, options?: { groups?: string[] }) => Promise<unknown>

interface CallOptions {
  nodeID?: string
  timeout?: number
}

export class Network {
  readonly #world: World
  readonly #joined = new Map<Life, Joined>()
  readonly #partitioned = new Map<string, number>()
  readonly #turns = new Map<string, number>()

  constructor(world: World) {
    this.#world = world
  }

  /** No message to or from the node gets through. */
  partition(node: string, forMs: number): void {
    this.#world.note(() => `${node} is cut off for ${Math.round(forMs)} ms`)
    this.#partitioned.set(node, this.#world.now + forMs)
  }

  heal(): void {
    this.#partitioned.clear()
  }

  #isCutOff(life: Life): boolean {
    return (this.#partitioned.get(life.node) ?? 0) > this.#world.now
  }

  join(life: Life, broker: ServiceBroker): void {
    const { emit, broadcastLocal } = broker as unknown as { emit: Emit; broadcastLocal: Emit }
    this.#joined.set(life, { life, broker, local: { emit, broadcastLocal } })
    broker.waitForServices = async (names) => {
      const wanted = [names].flat() as string[]
      while (!wanted.every((name) => life.services.has(name) || this.#others(life, name).length > 0)) {
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
      return { services: [], statuses: [] } as never
    }
    life.onDeath.add(() => this.leave(life))
  }

  leave(life: Life): void {
    this.#world.timeline.schedule(this.#world.now + SILENCE_MS, null, () => this.#joined.delete(life))
  }

  /** Instances of a service elsewhere that `life` takes for alive. */
  #others(life: Life, service: string): Joined[] {
    const { now } = this.#world
    const isHeard = (other: Life) => {
      if (other === life || !other.services.has(service)) return false
      // Each believes for a while that the other is still there.
      return other.silentSince > now - SILENCE_MS
    }
    return [...this.#joined.values()].filter((one) => isHeard(one.life))
  }

  middleware(life: Life): Middleware {
    return {
      call: (next: Call) => (action: string, params?: unknown, options?: CallOptions) =>
        this.#call(life, next, action, params, options),
      emit: (next: Emit) => (event: string, payload?: unknown, options?: { groups?: string[] }) => {
        if (options?.groups) return next(event, payload, options)
        this.#emit(life, event, payload)
        return next(event, payload, options)
      },
      broadcast: (next: Emit) => (event: string, payload?: unknown, options?: { groups?: string[] }) => {
        for (const to of this.#joined.values()) {
          if (to.life !== life)
            this.#deliver(life, to, event, () => void to.broker.broadcastLocal(event, copyOf(payload)))
        }
        return next(event, payload, options)
      },
      serviceStarted: async ({ name }: { name: string }) => void life.services.add(name),
      serviceStopping: async ({ name }: { name: string }) => void life.services.delete(name)
    } as unknown as Middleware
  }

  #call(life: Life, next: Call, action: string, params: unknown, options: CallOptions = {}): Promise<unknown> {
    const service = action.slice(0, action.lastIndexOf('.'))
    // Moleculer's `preferLocal`.
    if (options.nodeID === life.name || life.services.has(service)) return next(action, params, options)
    const others = this.#others(life, service)
    if (others.length === 0) return Promise.reject(new Errors.ServiceNotFoundError({ action }))
    const turn = (this.#turns.get(service) ?? 0) + 1
    this.#turns.set(service, turn)
    return this.#request(life, others[turn % others.length]!, action, params, options.timeout)
  }

  #request(life: Life, to: Joined, action: string, params: unknown, timeout?: number): Promise<unknown> {
    const { timeline } = this.#world
    return new Promise((resolve, reject) => {
      if (life.isDead) return
      const timeoutMs = timeout ?? timeoutOf(to.broker, action) ?? REQUEST_MS
      let isOver = false
      const over = (act: () => void) => {
        if (isOver) return
        isOver = true
        if (timer) timer.act = null
        act()
      }
      const gone = () => {
        // Whoever is silent is taken for gone, and answers are no longer waited for.
        if (isOver) return
        const isSilent = to.life.silentSince <= this.#world.now - SILENCE_MS
        if (isSilent) over(() => reject(new Errors.RequestRejectedError({ action, nodeID: to.life.name })))
        else timeline.schedule(this.#world.now + 2000, life, gone)
      }
      const expired = () => over(() => reject(new Errors.RequestTimeoutError({ action, nodeID: to.life.name })))
      const timer = timeoutMs > 0 ? timeline.schedule(this.#world.now + timeoutMs, life, expired) : null
      if (timeoutMs === 0 || timeoutMs > SILENCE_MS) timeline.schedule(this.#world.now + 2000, life, gone)
      const answer = (act: () => void) => {
        if (to.life.isDead) return
        this.#travel(to.life, life, `the answer to ${action}`, () => over(act))
      }
      // Right before a worker says how it ended is a bad moment to be stopped.
      if (action.startsWith('files.finish') && this.#world.plan.freezesAtFinish) this.#world.mayFreeze(life)
      this.#travel(life, to.life, action, () => {
        const asked = as(to.life, () => to.broker.call(action, copyOf(params) as object, { timeout: timeoutMs }))
        asked.then(
          (result) => answer(() => resolve(copyOf(result))),
          (error) => answer(() => reject(errorOf(error)))
        )
      })
    })
  }

  /** One for each group: here where there is one, else somewhere. */
  #emit(life: Life, event: string, payload: unknown): void {
    const groups = new Set<string>()
    for (const { broker } of this.#joined.values()) {
      for (const { name, schema } of broker.services) if (schema.events?.[event]) groups.add(name)
    }
    for (const group of groups) {
      if (life.services.has(group)) continue
      const others = this.#others(life, group)
      if (others.length === 0) continue
      const to = this.#world.random.pick(others)
      this.#deliver(life, to, event, () => void to.broker.emit(event, copyOf(payload), { groups: [group] }))
    }
  }

  #deliver(from: Life, to: Joined, event: string, act: () => void): void {
    this.#travel(from, to.life, event, act)
  }

  #travel(from: Life, to: Life, what: string, arrive: () => void): void {
    const { timeline, random, plan, isFaulty } = this.#world
    if (from.isDead || this.#isCutOff(from) || this.#isCutOff(to)) return
    if (isFaulty && random.chance(plan.errors.network)) {
      this.#world.faults++
      this.#world.note(() => `${what} from ${from.name} to ${to.name} is lost`)
      return
    }
    // One that is stopped sends when it goes on.
    if (from.held) {
      timeline.schedule(this.#world.now, from, () => this.#travel(from, to, what, arrive))
      return
    }
    timeline.schedule(this.#world.now + this.#world.wayMs(), to, () => {
      if (this.#isCutOff(from) || this.#isCutOff(to)) return
      this.#world.note(() => `${from.name} > ${to.name} ${what}`)
      arrive()
    })
  }
}

/** As JSON carries it. */
function copyOf(value: unknown): unknown {
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value))
}

/** An error that crossed the network keeps name, message, type, code, retryable and data; its class is lost. */
function errorOf(error: Record<string, unknown> & Error): Error {
  const { name, message, type, code, retryable, data } = error
  return Object.assign(new Error(message), { name, type, code, retryable, data })
}

function timeoutOf(broker: ServiceBroker, action: string): number | undefined {
  const name = action.slice(action.lastIndexOf('.') + 1)
  const service = broker.services.find((one) => action === `${one.name}.${name}`)
  return (service?.schema.actions?.[name] as { timeout?: number } | undefined)?.timeout
}
