import { describe, expect, jest, test } from '@jest/globals'
import { runSeeds } from './pool.ts'

/** A whole run of the tests takes ten thousand; one by a pattern a part of them. */
const SEEDS = Number(process.env.SIMULATION_SEEDS ?? 300)

// It has what the others leave of the processor.
jest.setTimeout(3_600_000)

describe('the simulation', () => {
  test('the same seed makes the same run, in whatever process and after whatever seeds', async () => {
    const [one, two] = await Promise.all([
      runSeeds({ first: 40, count: 20, processes: 1, traced: true, keep: true }),
      runSeeds({ first: 55, count: 20, processes: 1, traced: true, keep: true })
    ])
    for (let seed = 55; seed < 60; seed++) {
      const [a, b] = [one, two].map(({ runs }) => runs.find((run) => run.seed === seed)!)
      expect(a!.trace.length).toBeGreaterThan(100)
      expect(a).toEqual(b)
    }
    expect(new Set(one.runs.map(({ digest }) => digest)).size).toBe(20)
  })

  test(`${SEEDS} seeds lose nothing, double nothing, and leave nothing behind`, async () => {
    const { seeds, failed, files, messages, crashes, faults } = await runSeeds({ first: 1, count: SEEDS, enough: 5 })
    const told = failed.map(({ seed, problems }) => `npm run simulate -- --seed ${seed}: ${problems.join('; ')}`)
    expect(told).toEqual([])
    expect(seeds).toBe(SEEDS)
    // It would not be worth much without trouble.
    expect(files).toBeGreaterThan(5 * SEEDS)
    expect(messages).toBeGreaterThan(4 * SEEDS)
    expect(crashes).toBeGreaterThan(SEEDS / 2)
    expect(faults).toBeGreaterThan(4 * SEEDS)
  })
})
