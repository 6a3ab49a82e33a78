import { describe, expect, test } from '@jest/globals'
import { runRound, SETTLE_MS } from './random/round.ts'

const MiB = 1024 * 1024

describe('random faults on real servers', () => {
  test.each([3, 8])('seed %i breaks no promise', async (seed) => {
    const lines: string[] = []
    const report = await runRound({
      seed,
      faultsMs: 30_000,
      // Other tests run beside this one, and may keep the processor for a while.
      settleMs: 2 * SETTLE_MS,
      largeBytes: 24 * MiB,
      mostBytes: 150 * MiB,
      log: (line) => lines.push(line)
    })
    expect([report.problems, report.problems.length > 0 ? lines : []]).toEqual([[], []])
    expect(report.faults).toBeGreaterThan(3)
    expect(report.objects).toBeGreaterThan(10)
  })
})
