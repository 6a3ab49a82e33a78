/**
 * What was done when: counts of files and bytes a minute, an hour and a day, by server and for all of them. Filled by
 * each change of state that was written; a bucket begins at a whole minute, hour or day of UTC.
 */
import type { FileRecord } from './file-record.ts'

export const RESOLUTIONS = ['minute', 'hour', 'day'] as const
export type Resolution = (typeof RESOLUTIONS)[number]

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

/** Milliseconds. `keptMs`: how long a bucket stays; `shownMs`: how much is shown where no beginning is asked for. */
export const SPANS: Record<Resolution, { bucketMs: number; keptMs: number; shownMs: number }> = {
  minute: { bucketMs: MINUTE, keptMs: 6 * HOUR, shownMs: HOUR },
  hour: { bucketMs: HOUR, keptMs: 14 * DAY, shownMs: DAY },
  day: { bucketMs: DAY, keptMs: 400 * DAY, shownMs: 30 * DAY }
}

/** `found`: new records; `stored`: objects complete and verified; `announced`: confirmed messages; the others: states entered. */
export const TALLIES = ['found', 'stored', 'announced', 'failed', 'skipped', 'vanished'] as const
export type Tally = (typeof TALLIES)[number]
export type Tallies = Record<Tally, { count: number; bytes: number }>

export function noTallies(): Tallies {
  return Object.fromEntries(TALLIES.map((tally) => [tally, { count: 0, bytes: 0 }])) as Tallies
}

export function addTallies(a: Tallies, b: Tallies): Tallies {
  return Object.fromEntries(
    TALLIES.map((tally) => [tally, { count: a[tally].count + b[tally].count, bytes: a[tally].bytes + b[tally].bytes }])
  ) as Tallies
}

/** What the change from one state of a record (null: there was none) to another counts as. */
export function talliesOf(from: FileRecord | null, to: FileRecord): Tally[] {
  const tallies: Tally[] = from === null ? ['found'] : []
  if (to.object && to.object !== from?.object && to.object.storedAt !== from?.object?.storedAt) tallies.push('stored')
  if (from?.announcement?.status === 'due' && to.announcement?.status === 'sent') tallies.push('announced')
  const { status } = to
  const isAside = status === 'failed' || status === 'skipped' || status === 'vanished'
  return isAside && status !== from?.status ? [...tallies, status] : tallies
}

/** The beginning of the bucket that holds `at`. */
export function bucketStart(resolution: Resolution, at: number): number {
  const { bucketMs } = SPANS[resolution]
  return Math.floor(at / bucketMs) * bucketMs
}

export interface Window {
  resolution: Resolution
  /** The beginnings of the first bucket and of the one after the last. */
  since: number
  until: number
}

/** Whole buckets, none that is no longer kept, none that has not begun. */
export function windowOf(
  resolution: Resolution,
  since: number | undefined,
  until: number | undefined,
  now: number
): Window {
  const { bucketMs, keptMs, shownMs } = SPANS[resolution]
  const last = until === undefined ? now : Math.min(until - 1, now)
  const end = bucketStart(resolution, last) + bucketMs
  const first = bucketStart(resolution, now - keptMs) + bucketMs
  const start = bucketStart(resolution, since ?? end - shownMs)
  return { resolution, since: Math.max(start, first), until: end }
}
