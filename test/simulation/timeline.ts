/**
 * Virtual time. Everything that happens in a simulated world is an entry of one queue, ordered by time and then by the
 * order of asking; between two entries all promises settle. Nothing else moves: the same seed makes the same run.
 *
 * `install` puts virtual versions of the timers, the clocks and chance in the place of the process's own. Which world
 * and which simulated process a call belongs to is told by the asynchronous context; code outside of any world keeps the
 * real ones.
 *
 *   alive -> stopped (SIGSTOP) -> alive     what comes due meanwhile comes at the end, as for a real process
 *   alive -> dead                           nothing of it ever comes due again
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import timers from 'node:timers'
import timersPromises from 'node:timers/promises'
import type { Random } from './random.ts'

/** Whom a timer or an answer belongs to. */
export interface Owner {
  readonly name: string
  readonly timeline: Timeline
  /** What its clock is ahead of the world's, ms. */
  skewMs: number
  isDead: boolean
  /** What came due while it is stopped; null while it runs. */
  held: Entry[] | null
}

export interface Entry {
  at: number
  order: number
  /** null: of the world itself. */
  owner: Owner | null
  act: (() => void) | null
}

const current = new AsyncLocalStorage<Owner>()
const realSetImmediate = globalThis.setImmediate
/** Monday, and not at the beginning of a second. */
const EPOCH_MS = Date.UTC(2026, 0, 5, 6, 0, 0, 137)

export class Timeline {
  readonly random: Random
  now = 0
  steps = 0
  /** Of every step so far: two runs with the same one did the same. */
  digest = 0x811c9dc5
  readonly #queue: Entry[] = []
  #order = 0

  constructor(random: Random) {
    this.random = random
  }

  get date(): number {
    return EPOCH_MS + Math.floor(this.now)
  }

  /** `act` runs at `at`, in the context of its owner, unless the owner is dead by then. */
  schedule(at: number, owner: Owner | null, act: () => void): Entry {
    const entry: Entry = { at: Math.max(at, this.now), order: this.#order++, owner, act }
    this.#push(entry)
    return entry
  }

  /** Until `isDone`, asked after every step, or `until` (virtual ms). */
  async run(until: number, isDone: () => boolean = () => false): Promise<void> {
    // What was begun from outside asks for its first entries now.
    await settled()
    for (;;) {
      const entry = this.#queue[0]
      if (!entry || entry.at > until) {
        this.now = until
        return
      }
      this.#pop()
      const { owner, act } = entry
      if (act === null || owner?.isDead) continue
      if (owner?.held) {
        owner.held.push(entry)
        continue
      }
      this.now = Math.max(this.now, entry.at)
      this.steps++
      this.mix(this.now * 1000)
      this.mix(entry.order)
      if (owner) current.run(owner, act)
      else act()
      await settled()
      if (isDone()) return
    }
  }

  /** Lets a stopped one go on. */
  release(owner: Owner): void {
    const { held } = owner
    owner.held = null
    for (const entry of held ?? []) this.#push(entry)
  }

  mix(value: number): void {
    this.digest = Math.imul(this.digest ^ value, 0x01000193)
  }

  /** A binary heap: the first is due first. */
  #push(entry: Entry): void {
    const queue = this.#queue
    let place = queue.push(entry) - 1
    while (place > 0) {
      const above = (place - 1) >> 1
      if (!isBefore(entry, queue[above]!)) break
      queue[place] = queue[above]!
      place = above
    }
    queue[place] = entry
  }

  #pop(): void {
    const queue = this.#queue
    const last = queue.pop()!
    if (queue.length === 0) return
    let place = 0
    for (;;) {
      let below = 2 * place + 1
      if (below >= queue.length) break
      if (below + 1 < queue.length && isBefore(queue[below + 1]!, queue[below]!)) below++
      if (!isBefore(queue[below]!, last)) break
      queue[place] = queue[below]!
      place = below
    }
    queue[place] = last
  }
}

function isBefore(a: Entry, b: Entry): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order)
}

/** When every promise that could go on has gone on. */
function settled(): Promise<void> {
  return new Promise((resolve) => realSetImmediate(resolve))
}

/** Runs in the context of a simulated process. */
export function as<R>(owner: Owner, act: () => R): R {
  return current.run(owner, act)
}

class VirtualTimer {
  #entry: Entry
  readonly #again: (() => Entry) | null

  constructor(owner: Owner, ms: unknown, act: () => void, repeats: boolean) {
    const { timeline } = owner
    // As Node has it: whole milliseconds, at least one.
    const delayMs = Math.max(1, Math.trunc(Number(ms)) || 1)
    const tick = () => {
      if (repeats) this.#entry = timeline.schedule(timeline.now + delayMs, owner, tick)
      act()
    }
    this.#again = () => timeline.schedule(timeline.now + delayMs, owner, tick)
    this.#entry = this.#again()
  }

  clear(): void {
    this.#entry.act = null
  }

  refresh(): this {
    this.clear()
    this.#entry = this.#again!()
    return this
  }

  ref(): this {
    return this
  }

  unref(): this {
    return this
  }

  hasRef(): boolean {
    return true
  }
}

type Callback = (...args: unknown[]) => void
let isInstalled = false

/** Once for the process. */
export function install(): void {
  if (isInstalled) return
  isInstalled = true
  const real = {
    setTimeout: globalThis.setTimeout,
    setInterval: globalThis.setInterval,
    setImmediate: globalThis.setImmediate,
    clear: globalThis.clearTimeout,
    clearImmediate: globalThis.clearImmediate,
    delay: timersPromises.setTimeout,
    yielded: timersPromises.setImmediate,
    now: Date.now,
    monotonic: performance.now.bind(performance),
    random: Math.random,
    timeout: AbortSignal.timeout,
    uuid: crypto.randomUUID
  }
  const timer = (repeats: boolean, otherwise: Callback) =>
    function set(act: Callback, ms: unknown, ...args: unknown[]) {
      const owner = current.getStore()
      return owner ? new VirtualTimer(owner, ms, () => act(...args), repeats) : otherwise(act, ms, ...args)
    }
  const clear = (given: unknown) => (given instanceof VirtualTimer ? given.clear() : real.clear(given as never))
  const soon = (act: Callback, ...args: unknown[]) => {
    const owner = current.getStore()
    if (!owner) return real.setImmediate(act, ...args)
    return owner.timeline.schedule(owner.timeline.now, owner, () => act(...args))
  }
  const replaced = {
    setTimeout: timer(false, real.setTimeout as Callback),
    setInterval: timer(true, real.setInterval as Callback),
    setImmediate: soon,
    clearTimeout: clear,
    clearInterval: clear
  }
  Object.assign(globalThis, replaced)
  Object.assign(timers, replaced)
  Object.assign(timersPromises, {
    setTimeout: (ms: number, value: unknown, options?: { signal?: AbortSignal }) => {
      const owner = current.getStore()
      return owner ? virtualDelay(owner, ms, value, options?.signal) : real.delay(ms, value, options)
    },
    setImmediate: (value: unknown) => {
      const owner = current.getStore()
      return owner ? virtualDelay(owner, 0, value) : real.yielded(value)
    }
  })
  Object.assign(crypto, {
    randomUUID: () => {
      const random = current.getStore()?.timeline.random
      return random ? `${hex(random)}-${hex(random)}` : real.uuid()
    }
  })
  syncBuiltinESMExports()
  Date.now = () => {
    const owner = current.getStore()
    return owner ? owner.timeline.date + owner.skewMs : real.now()
  }
  performance.now = () => current.getStore()?.timeline.now ?? real.monotonic()
  Math.random = () => {
    const owner = current.getStore()
    return owner ? owner.timeline.random.next() : real.random()
  }
  AbortSignal.timeout = (ms: number) => {
    const owner = current.getStore()
    if (!owner) return real.timeout.call(AbortSignal, ms)
    const abort = new AbortController()
    setTimeout(() => abort.abort(new DOMException('The operation was aborted due to timeout', 'TimeoutError')), ms)
    return abort.signal
  }
}

function hex(random: Random): string {
  return Math.floor(random.next() * 2 ** 32)
    .toString(16)
    .padStart(8, '0')
}

function virtualDelay<T>(owner: Owner, ms: number, value: T, signal?: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const aborted = () => {
      entry.clear()
      reject(Object.assign(new Error('The operation was aborted', { cause: signal!.reason }), { name: 'AbortError' }))
    }
    const entry = new VirtualTimer(
      owner,
      ms,
      () => {
        signal?.removeEventListener('abort', aborted)
        resolve(value)
      },
      false
    )
    if (signal?.aborted) aborted()
    else signal?.addEventListener('abort', aborted, { once: true })
  })
}
