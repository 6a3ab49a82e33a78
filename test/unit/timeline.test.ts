import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { FileRecord } from '../../domain/file-record.ts'
import { bucketStart, RESOLUTIONS, SPANS, talliesOf, windowOf } from '../../domain/timeline.ts'

const record = (more: object) => ({ status: 'pending', object: null, announcement: null, ...more }) as FileRecord
const object = (storedAt: number) => ({ storedAt }) as FileRecord['object']
const announcement = (status: 'due' | 'sent') => ({ status }) as FileRecord['announcement']

describe('what a change counts as', () => {
  test('a new record is found, and also skipped where it begins so', () => {
    expect(talliesOf(null, record({}))).toEqual(['found'])
    expect(talliesOf(null, record({ status: 'skipped' }))).toEqual(['found', 'skipped'])
  })

  test('an object that is complete is stored once, and again after a refetch', () => {
    const stored = record({ status: 'uploaded', object: object(1), announcement: announcement('due') })
    expect(talliesOf(record({ status: 'downloading' }), stored)).toEqual(['stored'])
    expect(talliesOf(stored, { ...stored, revision: 3 })).toEqual([])
    expect(talliesOf(stored, structuredClone(stored))).toEqual([])
    const refetching = record({ status: 'downloading', object: object(1), refetch: {} })
    expect(talliesOf(refetching, { ...stored, object: object(2) })).toEqual(['stored'])
  })

  test('a refetch that came to nothing is neither stored nor announced', () => {
    const refetching = record({ status: 'pending', object: object(1), refetch: {} })
    const back = record({ status: 'notified', object: object(1), announcement: announcement('sent') })
    expect(talliesOf(refetching, back)).toEqual([])
  })

  test('a confirmed message is announced, also one that was asked for again', () => {
    const sent = record({ status: 'notified', object: object(1), announcement: announcement('sent') })
    expect(talliesOf({ ...sent, status: 'uploaded', announcement: announcement('due') }, sent)).toEqual(['announced'])
    expect(talliesOf({ ...sent, announcement: announcement('due') }, sent)).toEqual(['announced'])
    expect(talliesOf(sent, { ...sent, announcement: announcement('due') })).toEqual([])
  })

  test('failed, skipped and vanished count when they are entered', () => {
    for (const status of ['failed', 'skipped', 'vanished'] as const) {
      expect(talliesOf(record({}), record({ status }))).toEqual([status])
      expect(talliesOf(record({ status }), record({ status }))).toEqual([])
    }
  })
})

describe('a window', () => {
  const now = Date.UTC(2030, 5, 15, 10, 20, 30)

  test('shows the last hour by minutes where nothing is asked for, with the minute that runs', () => {
    const { since, until } = windowOf('minute', undefined, undefined, now)
    expect([since, until]).toEqual([Date.UTC(2030, 5, 15, 9, 21), Date.UTC(2030, 5, 15, 10, 21)])
  })

  test('holds whole buckets, none of them in the future or no longer kept', () => {
    const time = fc.option(fc.integer({ min: 0, max: now * 2 }), { nil: undefined })
    fc.assert(
      fc.property(fc.constantFrom(...RESOLUTIONS), time, time, (resolution, since, until) => {
        const { bucketMs, keptMs } = SPANS[resolution]
        const window = windowOf(resolution, since, until, now)
        expect(window.since % bucketMs).toBe(0)
        expect(window.until % bucketMs).toBe(0)
        expect(window.since).toBeGreaterThan(now - keptMs)
        expect(window.until).toBeLessThanOrEqual(bucketStart(resolution, now) + bucketMs)
        expect((window.until - window.since) / bucketMs).toBeLessThanOrEqual(keptMs / bucketMs)
        if (since !== undefined && since > now - keptMs + bucketMs) expect(window.since).toBeLessThanOrEqual(since)
        if (until !== undefined && until <= now) expect(window.until).toBeGreaterThanOrEqual(until)
      })
    )
  })
})
