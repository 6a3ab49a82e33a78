import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { partRange, planParts } from '../../domain/ranges.ts'

const MiB = 1024 * 1024
const s3 = {
  minPartBytes: 5 * MiB,
  maxPartBytes: 5 * 1024 * MiB,
  maxParts: 10_000,
  maxObjectBytes: 5 * 1024 ** 2 * MiB
}

describe('planParts', () => {
  test('the parts cover every byte once, in order, within the limits of S3', () => {
    const sizes = fc.oneof(
      fc.integer({ min: 0, max: 2 ** 31 }),
      fc.maxSafeNat().map((size) => size % s3.maxObjectBytes)
    )
    fc.assert(
      fc.property(sizes, fc.boolean(), (size, areLong) => {
        const plan = planParts(size, s3, areLong)!
        expect(plan.count).toBeGreaterThanOrEqual(1)
        expect(plan.count).toBeLessThanOrEqual(s3.maxParts)
        expect(plan.partBytes).toBeGreaterThanOrEqual(s3.minPartBytes)
        expect(plan.partBytes).toBeLessThanOrEqual(s3.maxPartBytes)
        let end = 0
        for (let number = 1; number <= plan.count; number++) {
          const { start, length } = partRange(plan, size, number)
          if (start !== end || (number < plan.count && length !== plan.partBytes)) throw new Error(`part ${number}`)
          end = start + length
        }
        expect(end).toBe(size)
      }),
      { numRuns: 200 }
    )
  })

  test('parts are of 16 MiB as long as 10,000 of them are enough', () => {
    expect(planParts(10_000 * 16 * MiB, s3)).toEqual({ partBytes: 16 * MiB, count: 10_000 })
    expect(planParts(10_000 * 16 * MiB + 1, s3)).toEqual({ partBytes: 17 * MiB, count: 9412 })
  })

  test.each([
    [17, 16, 2],
    [40, 20, 2],
    [127.5, 64, 2],
    [1024, 64, 16],
    [640_001, 65, 9847]
  ])('long parts of %d MiB are of %d MiB: halves, from 16 to 64', (mebibytes, partMebibytes, count) => {
    expect(planParts(mebibytes * MiB, s3, true)).toEqual({ partBytes: partMebibytes * MiB, count })
  })

  test('long parts are no longer than the store takes them', () => {
    const limits = { ...s3, maxPartBytes: 32 * MiB }
    expect(planParts(1024 * MiB, limits, true)).toEqual({ partBytes: 32 * MiB, count: 32 })
  })

  test('an object that the store cannot hold has no plan', () => {
    expect(planParts(s3.maxObjectBytes, s3)).not.toBeNull()
    expect(planParts(s3.maxObjectBytes + 1, s3)).toBeNull()
    expect(planParts(100 * MiB, { ...s3, maxParts: 2, maxPartBytes: 16 * MiB })).toBeNull()
  })
})
