import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { isSettled, look, nextLookAt, type SettleState } from '../../domain/settle.ts'

const policies = fc.record({
  checks: fc.integer({ min: 1, max: 10 }),
  seconds: fc.oneof(fc.integer({ min: 0, max: 86_400 }), fc.double({ min: 0, max: 100, noNaN: true }))
})
const start = 1_700_000_000_000

describe('settle', () => {
  test('a file is never settled before so many equal looks and so many seconds', () => {
    const looks = fc.array(fc.record({ afterMs: fc.integer({ min: 0, max: 40_000 }), changed: fc.boolean() }), {
      minLength: 1
    })
    fc.assert(
      fc.property(policies, looks, (policy, seen) => {
        let state: SettleState | null = null
        let now = start
        let equal: number[] = []
        for (const { afterMs, changed } of seen) {
          now += afterMs
          equal = changed ? [now] : [...equal, now]
          state = look(state, changed, now)
          const old = equal.length >= policy.checks && now - equal[0]! >= policy.seconds * 1000
          expect(isSettled(state, policy, now)).toBe(old)
        }
      })
    )
  })

  test('one check and no time settle at once', () => {
    expect(isSettled(look(null, false, start), { checks: 1, seconds: 0 }, start)).toBe(true)
  })

  test('a change begins again', () => {
    const policy = { checks: 2, seconds: 30 }
    const changed = look(look(null, false, start), true, start + 30_000)
    expect(changed).toEqual({ looks: 1, since: start + 30_000 })
    expect(isSettled(changed, policy, start + 30_000)).toBe(false)
  })

  test('looking when nextLookAt says settles with as many looks as asked for, in the time asked for', () => {
    fc.assert(
      fc.property(policies, (policy) => {
        let now = start
        let state = look(null, false, now)
        let looks = 1
        while (!isSettled(state, policy, now)) {
          const next = nextLookAt(state, policy, now)
          expect(next).toBeGreaterThan(now)
          now = Math.ceil(next)
          state = look(state, false, now)
          looks++
          expect(looks).toBeLessThanOrEqual(Math.max(2, policy.checks))
        }
        const least = policy.seconds * 1000
        expect(now - start).toBeGreaterThanOrEqual(least)
        expect(now - start).toBeLessThanOrEqual(least + 260 * policy.checks)
      })
    )
  })

  test('looks that come early or late in between do not keep it from settling', () => {
    fc.assert(
      fc.property(policies, fc.array(fc.integer({ min: 0, max: 100_000 }), { maxLength: 20 }), (policy, others) => {
        let now = start
        let state = look(null, false, now)
        for (const afterMs of others) {
          now += afterMs
          state = look(state, false, now)
        }
        let looks = 0
        for (; !isSettled(state, policy, now); looks++) {
          expect(looks).toBeLessThanOrEqual(policy.checks)
          now = Math.ceil(nextLookAt(state, policy, now))
          state = look(state, false, now)
        }
      })
    )
  })

  test('the looks of three checks in 30 seconds are 15 seconds apart', () => {
    const policy = { checks: 3, seconds: 30 }
    const first = look(null, false, start)
    expect(nextLookAt(first, policy, start)).toBe(start + 15_000)
    expect(nextLookAt(look(first, false, start + 15_000), policy, start + 15_000)).toBe(start + 30_000)
  })
})
