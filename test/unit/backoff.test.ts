import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { backoffMs, FILE_BACKOFF } from '../../domain/backoff.ts'

const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
const attempts = fc.integer({ min: 1, max: 1_000_000 })

describe('backoffMs', () => {
  test('waits between a tenth of the step and the step, and never longer than the cap', () => {
    fc.assert(
      fc.property(attempts, random, (attempt, chance) => {
        const step = Math.min(FILE_BACKOFF.capMs, FILE_BACKOFF.baseMs * 2 ** (attempt - 1))
        const waited = backoffMs(FILE_BACKOFF, attempt, chance)
        expect(Number.isSafeInteger(waited)).toBe(true)
        expect(waited).toBeGreaterThanOrEqual(Math.floor(step / 10))
        expect(waited).toBeLessThanOrEqual(step)
      })
    )
  })

  test('a later attempt waits no shorter by the same chance', () => {
    fc.assert(
      fc.property(attempts, random, (attempt, chance) => {
        const [earlier, later] = [attempt, attempt + 1].map((one) => backoffMs(FILE_BACKOFF, one, chance))
        expect(later).toBeGreaterThanOrEqual(earlier!)
      })
    )
  })
})
