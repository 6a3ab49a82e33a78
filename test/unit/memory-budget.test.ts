import { setImmediate as yielded } from 'node:timers/promises'
import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { type Lane, MemoryBudget, type MemoryShare } from '../../workers/memory-budget.ts'

const MIB = 1024 * 1024
const TOTAL = 80 * MIB
const SMALL = 5 * MIB

/** Takes and says whether it was let in at once. */
async function take(share: MemoryShare, bytes: number, lane: Lane) {
  const taken = { isIn: false, release: () => {} }
  const done = share.take(bytes, lane).then((release) => {
    taken.isIn = true
    taken.release = release
  })
  await yielded()
  return Object.assign(taken, { done })
}

/** Takes again and again until one has to wait; those that were let in. */
async function fill(share: MemoryShare, bytes: number, lane: Lane) {
  const held = []
  for (;;) {
    const one = await take(share, bytes, lane)
    if (!one.isIn) return held
    held.push(one)
  }
}

const requests = fc.array(
  fc.record({
    stay: fc.nat(9),
    lane: fc.constantFrom<Lane>('short', 'long'),
    bytes: fc.oneof(fc.integer({ min: 1, max: SMALL }), fc.integer({ min: 1, max: 100 * MIB }))
  }),
  { maxLength: 60 }
)

describe('MemoryBudget', () => {
  test('holds no more than its total and one that is larger, and lets everything in that is waited for', async () => {
    await fc.assert(
      fc.asyncProperty(requests, fc.infiniteStream(fc.nat(1000)), async (all, picks) => {
        const budget = new MemoryBudget(TOTAL)
        const shares = Array.from({ length: 10 }, () => budget.join())
        const held: { bytes: number; lane: Lane; release(): void }[] = []
        const sum = (lane: Lane) =>
          held.filter((one) => one.lane === lane).reduce((total, { bytes }) => total + bytes, 0)
        let done = 0
        for (const { stay, lane, bytes } of all) {
          void shares[stay]!.take(bytes, lane).then((release) => held.push({ bytes, lane, release }))
        }
        await yielded()
        while (held.length > 0) {
          expect(budget.heldBytes).toBe(sum('short') + sum('long'))
          for (const lane of ['short', 'long'] as const) {
            const alone = held.filter((one) => one.lane === lane).length === 1
            expect(sum(lane) <= TOTAL * 0.8 || alone).toBe(true)
          }
          const [one] = held.splice(picks.next().value! % held.length, 1)
          one!.release()
          done++
          await yielded()
        }
        expect(done).toBe(all.length)
        expect(budget.heldBytes).toBe(0)
        expect(shares.every((share) => share.isEmpty())).toBe(true)
      })
    )
  })

  test.each<[string, Lane, number]>([
    ['large files', 'long', 12 * MIB],
    ['small files', 'short', 64 * 1024],
    ['the largest small files', 'short', SMALL]
  ])("a busy server's %s leave room for the first small file of another one", async (_, lane, bytes) => {
    const budget = new MemoryBudget(TOTAL)
    const busy = await fill(budget.join(), bytes, lane)
    expect(busy.length).toBeGreaterThan(3)
    expect((await take(budget.join(), SMALL, 'short')).isIn).toBe(true)
  })

  test("large files of a busy server leave room for another one's first, and small files for a large one", async () => {
    const budget = new MemoryBudget(TOTAL)
    await fill(budget.join(), 12 * MIB, 'long')
    expect((await take(budget.join(), 12 * MIB, 'long')).isIn).toBe(true)
    const other = new MemoryBudget(TOTAL)
    await fill(other.join(), SMALL, 'short')
    expect((await take(other.join(), 12 * MIB, 'long')).isIn).toBe(true)
  })

  test('large files of all servers together never keep a small one waiting', async () => {
    const budget = new MemoryBudget(TOTAL)
    for (let server = 0; server < 20; server++) await take(budget.join(), 12 * MIB, 'long')
    expect((await take(budget.join(), SMALL, 'short')).isIn).toBe(true)
  })

  test('stays take turns: one that asks for a thousand does not hold up one that asks for one', async () => {
    const budget = new MemoryBudget(TOTAL)
    const [busy, quiet, third] = [budget.join(), budget.join(), budget.join()]
    const begun: string[] = []
    const held: (() => void)[] = []
    const ask = (share: MemoryShare, name: string) =>
      void share.take(SMALL, 'short').then((release) => {
        begun.push(name)
        held.push(release)
      })
    for (let i = 0; i < 1000; i++) ask(busy, 'busy')
    for (let i = 0; i < 3; i++) ask(quiet, 'quiet')
    for (let i = 0; i < 3; i++) ask(third, 'third')
    await yielded()
    for (let i = 0; i < 6; i++) {
      held.shift()!()
      await yielded()
    }
    expect(begun.filter((name) => name === 'quiet').length).toBeGreaterThanOrEqual(2)
    expect(begun.filter((name) => name === 'third').length).toBeGreaterThanOrEqual(2)
  })

  test('one that holds nothing and does not fit yet is overtaken by nobody', async () => {
    const budget = new MemoryBudget(TOTAL)
    const near = budget.join()
    const held = await fill(near, 5 * MIB, 'long')
    const far = await take(budget.join(), 40 * MIB, 'long')
    expect(far.isIn).toBe(false)
    for (let i = 0; i < held.length && !far.isIn; i++) {
      held[i]!.release()
      await yielded()
    }
    expect(far.isIn).toBe(true)
  })

  test('who gives up waiting makes way, and gives nothing back that it never had', async () => {
    const budget = new MemoryBudget(TOTAL)
    const share = budget.join()
    const first = await take(share, 70 * MIB, 'long')
    const abort = new AbortController()
    const second = share.take(12 * MIB, 'long', abort.signal)
    const third = await take(share, 12 * MIB, 'long')
    abort.abort(new Error('not any more'))
    await expect(second).rejects.toThrow('not any more')
    await expect(share.take(1, 'short', abort.signal)).rejects.toThrow('not any more')
    first.release()
    first.release()
    await yielded()
    expect(third.isIn).toBe(true)
    expect(budget.heldBytes).toBe(12 * MIB)
  })

  test('says how much would be let in at once, and nothing while it waits', async () => {
    const budget = new MemoryBudget(TOTAL)
    const share = budget.join()
    const room = share.roomBytes()
    expect((await take(share, room, 'short')).isIn).toBe(true)
    expect(share.roomBytes()).toBe(0)
    const other = budget.join()
    await take(other, 70 * MIB, 'long')
    expect((await take(other, 70 * MIB, 'long')).isIn).toBe(false)
    expect(other.roomBytes()).toBe(0)
  })
})
