import { describe, expect, jest, test } from '@jest/globals'
import { mutations } from './mutations.ts'
import { runSeeds } from './pool.ts'

// They have what the others leave of the processor.
jest.setTimeout(3_600_000)

describe('the simulation', () => {
  test.each(Object.entries(mutations))('finds %s', async (mutation, { wish, seeds = 300 }) => {
    const { failed } = await runSeeds({ first: 1, count: seeds, enough: 1, mutation, wish })
    expect(failed.length).toBeGreaterThan(0)
    expect(failed[0]!.problems.join()).not.toBe('')
  })

  test('finds nothing in a clearing scenario, which no other test runs, where nothing is taken away', async () => {
    const { seeds, failed } = await runSeeds({ first: 1, count: 100, wish: 'clearing' })
    expect([seeds, failed.map(({ seed, problems }) => [seed, ...problems])]).toEqual([100, []])
  })

  test('refuses a mutation that the code has no place for', async () => {
    await expect(runSeeds({ first: 1, count: 1, mutation: 'nothing' })).rejects.toThrow('ended with 1')
  })
})
