/**
 * Which servers a worker copies from, when more have work than it has places.
 *
 *   waiting --begin--> staying --its turn is over, and others wait--> resting
 *   resting --begin--> staying
 *   staying | resting --left--> gone
 *
 * Nobody who has a place is disturbed while none waits for it. A resting stay takes no new files; what it has in flight
 * goes on, without a place. Who was served longest ago comes next, whatever the length of its queue: a server that had
 * nothing for a while waits for one turn of one place, not for the backlogs of others. Higher priority comes first, but
 * for those that have waited for so long that priority would starve them.
 */
import type { Priorities } from '../domain/priority.ts'

export interface TurnRules {
  /** Servers that are copied from at once. */
  places: number
  /** Stays in all, with those that rest or still connect. */
  maxStays: number
  /** How long a stay may go on while another server waits. */
  turnMs: number
}

/** What priority alone may keep a server waiting for. */
const PATIENCE_MS = 10_000
/** Of servers that are neither staying nor waiting, so many are remembered. */
const MAX_REMEMBERED = 10_000
const MAX_WAITING = 1_000

export class Turns {
  readonly #rules: TurnRules
  /** Since when. */
  readonly #waiting = new Map<string, number>()
  readonly #stays = new Map<string, { since: number; isResting: boolean }>()
  /** When each server was served last; the longest ago first. */
  readonly #servedAt = new Map<string, number>()

  constructor(rules: TurnRules) {
    this.#rules = rules
  }

  /** Whether more servers that wait would be remembered. */
  get isOpen(): boolean {
    return this.#waiting.size < MAX_WAITING
  }

  /** The server has something to copy. */
  wants(id: string, now: number): void {
    const stay = this.#stays.get(id)
    if (stay && !stay.isResting) return
    if (!this.#waiting.has(id)) this.#waiting.set(id, now)
  }

  /**
   * Who begins now (or goes on after a rest), and whose turn is over. `againMs`: when to ask again because a turn ends;
   * null when nobody waits.
   */
  next(now: number, priorities: Priorities = {}): { begin: string[]; rest: string[]; againMs: number | null } {
    const begin: string[] = []
    const rest: string[] = []
    for (const id of this.#order(now, priorities)) {
      if (!this.#stays.has(id) && this.#stays.size >= this.#rules.maxStays) continue
      if (!this.#hasPlace()) {
        const over = this.#oldestTurn(now)
        if (!over) break
        rest.push(over)
        this.#stays.get(over)!.isResting = true
        this.#served(over, now)
      }
      this.#waiting.delete(id)
      this.#stays.set(id, { since: now, isResting: false })
      this.#served(id, now)
      begin.push(id)
    }
    return { begin, rest, againMs: this.#waiting.size === 0 ? null : this.#untilTurnEnds(now) }
  }

  /** The stay has ended. */
  left(id: string, now: number): void {
    if (this.#stays.delete(id)) this.#served(id, now)
  }

  #staying(): [string, { since: number }][] {
    return [...this.#stays].filter(([, { isResting }]) => !isResting)
  }

  #hasPlace(): boolean {
    return this.#staying().length < this.#rules.places
  }

  #oldestTurn(now: number): string | null {
    const [first] = this.#staying().sort(([, a], [, b]) => a.since - b.since)
    return first && now - first[1].since >= this.#rules.turnMs ? first[0] : null
  }

  #untilTurnEnds(now: number): number {
    const ages = this.#staying().map(([, { since }]) => now - since)
    return Math.max(0, this.#rules.turnMs - Math.max(0, ...ages))
  }

  #order(now: number, priorities: Priorities): string[] {
    const waiting = [...this.#waiting].map(([id, since]) => {
      return { id, since, servedAt: this.#servedAt.get(id) ?? 0, priority: priorities[id] ?? 0 }
    })
    const highest = Math.max(...waiting.map(({ priority }) => priority))
    const rank = ({ since, priority }: (typeof waiting)[number]) => (now - since > PATIENCE_MS ? highest : priority)
    waiting.sort((a, b) => rank(b) - rank(a) || a.servedAt - b.servedAt || a.since - b.since)
    return waiting.map(({ id }) => id)
  }

  #served(id: string, now: number): void {
    this.#servedAt.delete(id)
    this.#servedAt.set(id, now)
    for (const oldest of this.#servedAt.keys()) {
      if (this.#servedAt.size <= MAX_REMEMBERED) break
      this.#servedAt.delete(oldest)
    }
  }
}
