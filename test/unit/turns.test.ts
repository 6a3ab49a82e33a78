import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { Turns } from '../../workers/turns.ts'

const rules = { places: 4, maxStays: 20, turnMs: 1_000 }

/** A worker whose servers all have endless work, but for those that are named with how many milliseconds they need. */
function worker(turns: Turns, busy: string[], short: Record<string, number> = {}) {
  const priorities: Record<string, number> = {}
  const began = new Map<string, number[]>()
  const staying = new Map<string, number>()
  return {
    began,
    staying,
    priorities,
    /** Asks as the service does: when something changed, and when a turn ends. */
    run(from: number, until: number, bells: Record<number, string[]> = {}) {
      let again = from
      for (let now = from; now <= until; now += 10) {
        for (const [id, since] of staying) {
          if (short[id] === undefined || now - since < short[id]) continue
          staying.delete(id)
          turns.left(id, now)
          again = now
        }
        for (const id of bells[now] ?? []) {
          turns.wants(id, now)
          again = now
        }
        if (now < again) continue
        for (const id of busy) turns.wants(id, now)
        const { begin, rest, againMs } = turns.next(now, priorities)
        for (const id of rest) staying.delete(id)
        for (const id of begin) {
          staying.set(id, now)
          began.set(id, [...(began.get(id) ?? []), now])
        }
        expect(staying.size).toBeLessThanOrEqual(rules.places)
        again = now + (againMs ?? 2_000)
      }
    }
  }
}
const names = (count: number) => Array.from({ length: count }, (_, i) => `busy-${i}`)

describe('Turns', () => {
  test('whoever has a place keeps it while nobody waits', () => {
    const turns = new Turns(rules)
    const { began, staying, run } = worker(turns, names(4))
    run(0, 60_000)
    expect(staying.size).toBe(4)
    expect([...began.values()]).toEqual([[0], [0], [0], [0]])
  })

  test('a server that had nothing gets its place within a turn, however many others never run out of work', () => {
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 100 }), fc.integer({ min: 0, max: 300 }), (count, after) => {
        const { began, run } = worker(new Turns({ ...rules, maxStays: 500 }), names(count), { single: 200 })
        const at = Math.ceil(count / rules.places) * rules.turnMs + after * 10
        run(0, at + 3_000, { [at]: ['single'] })
        const [start] = began.get('single')!
        expect(start! - at).toBeLessThanOrEqual(rules.turnMs)
      }),
      { numRuns: 20 }
    )
  })

  test('of servers that always have work each comes round as soon as all others had a turn', () => {
    const { began, run } = worker(new Turns({ ...rules, maxStays: 500 }), names(10))
    run(0, 100_000)
    const round = (Math.ceil(10 / rules.places) + 1) * rules.turnMs
    for (const name of names(10)) {
      for (const [i, at] of began.get(name)!.entries()) {
        expect(at - (began.get(name)![i - 1] ?? 0)).toBeLessThanOrEqual(round)
      }
    }
  })

  test('a resting stay goes on when its turn comes again, and is not begun twice', () => {
    const turns = new Turns({ places: 1, maxStays: 2, turnMs: 1_000 })
    for (const id of ['a', 'b']) turns.wants(id, 0)
    expect(turns.next(0)).toEqual({ begin: ['a'], rest: [], againMs: 1_000 })
    expect(turns.next(1_000)).toEqual({ begin: ['b'], rest: ['a'], againMs: null })
    turns.wants('a', 1_100)
    turns.wants('b', 1_100)
    expect(turns.next(1_100)).toEqual({ begin: [], rest: [], againMs: 900 })
    expect(turns.next(2_000)).toEqual({ begin: ['a'], rest: ['b'], againMs: null })
  })

  test('stays in all are bounded: when all rest, none more begins, and nobody is disturbed for it', () => {
    const turns = new Turns({ places: 1, maxStays: 2, turnMs: 1_000 })
    turns.wants('a', 0)
    turns.next(0)
    turns.wants('b', 0)
    expect(turns.next(1_000)).toMatchObject({ begin: ['b'], rest: ['a'] })
    turns.wants('c', 1_000)
    expect(turns.next(5_000)).toMatchObject({ begin: [], rest: [] })
    turns.left('a', 5_000)
    expect(turns.next(5_000)).toMatchObject({ begin: ['c'], rest: ['b'] })
  })

  test('a higher priority comes first, and keeps no one waiting for ever', () => {
    const turns = new Turns({ places: 1, maxStays: 100, turnMs: 1_000 })
    const busy = ['high-1', 'high-2', 'low']
    const { began, priorities, run } = worker(turns, busy)
    run(0, 3_000)
    for (const id of ['high-1', 'high-2']) priorities[id] = 5
    began.clear()
    run(3_010, 63_000)
    const low = began.get('low')!
    const high = began.get('high-1')!
    expect(high.length).toBeGreaterThan(3 * low.length)
    expect(low.length).toBeGreaterThan(2)
    for (const [i, at] of low.entries()) expect(at - (low[i - 1] ?? 3_000)).toBeLessThan(14_000)
  })
})
