import { describe, expect, test } from '@jest/globals'
import type { Outcome } from '../../domain/file.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import { type Finished, Finisher } from '../../workers/finisher.ts'

const outcome: Outcome = { kind: 'vanished' }

function file(id: number): FileRecord {
  return { _id: String(id) } as FileRecord
}

/** A report that stays under way until it is let go. */
function heldReports() {
  const reports: { ids: string[]; end(error?: Error): void }[] = []
  const report = (finished: Finished[]) =>
    new Promise<void>((resolve, reject) => {
      reports.push({ ids: finished.map((one) => one.file._id), end: (error) => (error ? reject(error) : resolve()) })
    })
  const arrived = async (count: number) => {
    while (reports.length < count) await new Promise(setImmediate)
  }
  return { reports, report, arrived }
}

describe('the finisher', () => {
  test('reports what ended together in one call, and what ended meanwhile in the next', async () => {
    const { reports, report, arrived } = heldReports()
    const finisher = new Finisher(report)
    const first = [1, 2, 3].map((id) => finisher.finish(file(id), outcome))
    await arrived(1)
    const second = [4, 5].map((id) => finisher.finish(file(id), outcome))
    reports[0]!.end()
    await Promise.all(first)
    await arrived(2)
    reports[1]!.end()
    await Promise.all(second)
    expect(reports.map(({ ids }) => ids)).toEqual([
      ['1', '2', '3'],
      ['4', '5']
    ])
  })

  test('confirms nothing before its report was taken', async () => {
    const { reports, report, arrived } = heldReports()
    const finisher = new Finisher(report)
    let isConfirmed = false
    const one = finisher.finish(file(1), outcome).then(() => {
      isConfirmed = true
    })
    await arrived(1)
    await new Promise(setImmediate)
    expect(isConfirmed).toBe(false)
    reports[0]!.end()
    await one
    expect(isConfirmed).toBe(true)
  })

  test('fails those of a failed report, and goes on with the next', async () => {
    const { reports, report, arrived } = heldReports()
    const finisher = new Finisher(report)
    const first = finisher.finish(file(1), outcome)
    await arrived(1)
    const second = finisher.finish(file(2), outcome)
    reports[0]!.end(new Error('away'))
    await expect(first).rejects.toThrow('away')
    await arrived(2)
    reports[1]!.end()
    await second
  })

  test('keeps a report far below what one message of the network carries', async () => {
    const { reports, report, arrived } = heldReports()
    const finisher = new Finisher(report)
    const all = Array.from({ length: 450 }, (_, id) => finisher.finish(file(id), outcome))
    for (let count = 1; count <= 3; count++) {
      await arrived(count)
      reports[count - 1]!.end()
    }
    await Promise.all(all)
    expect(reports.map(({ ids }) => ids.length)).toEqual([200, 200, 50])
  })
})
