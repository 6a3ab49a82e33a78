/**
 * When a server is scanned: every so many seconds, or by a cron expression in a time zone of its own. Missed ticks are
 * never made up in a burst: what is answered is always the one next tick after `now`.
 */
import { Cron } from 'croner'

export interface Schedule {
  /** Seconds; null where a cron expression says when. */
  interval: number | null
  /** Five fields, or six with seconds first, or a nickname such as `@daily`; null where an interval says when. */
  cron: string | null
  /** IANA name, such as Europe/Berlin; null without a cron expression. */
  timezone: string | null
}

export const DEFAULT_INTERVAL_SECONDS = 60
export const DEFAULT_TIMEZONE = 'UTC'

/** Ticks of many servers are spread: by this share of the time between two, either side of an interval, after a cron tick. */
const INTERVAL_JITTER = 0.05
const CRON_JITTER = 0.05
const MAX_CRON_JITTER_MS = 10_000

const FIRST_BACKOFF_MS = 5_000
/** Short, so that what a server has after an outage of any length is copied within two leases (60 s). */
const MAX_BACKOFF_MS = 20_000

/** What is wrong with a schedule, by field; null when nothing is. Answers for any text. */
export function scheduleProblem(
  cron: string,
  timezone: string
): { field: 'cron' | 'timezone'; message: string } | null {
  try {
    new Intl.DateTimeFormat('en', { timeZone: timezone })
  } catch {
    return { field: 'timezone', message: 'is not a known time zone; give an IANA name such as Europe/Berlin' }
  }
  if (!/^@[a-z]+$/i.test(cron) && ![5, 6].includes(cron.trim().split(/\s+/).length)) {
    return {
      field: 'cron',
      message: 'must have five fields (minute hour day month weekday), or six with seconds first'
    }
  }
  try {
    // From a fixed day on: whether it ever comes does not depend on today, since years cannot be named.
    if (new Cron(cron, { timezone }).nextRun(new Date(0)) !== null) return null
    return { field: 'cron', message: 'never comes' }
  } catch (error) {
    const reason = (error as Error).message.replace(/^Cron\w+: /, '')
    return { field: 'cron', message: `cannot be read: ${reason}` }
  }
}

/**
 * The next time to scan after `now`, with its jitter; ms since the epoch. `random` is in [0, 1).
 * A local time that the clocks skip comes when they have been put forward; one that they repeat comes once.
 */
export function nextTick(schedule: Schedule, now: number, random: number): number {
  if (schedule.cron === null) {
    const intervalMs = (schedule.interval ?? DEFAULT_INTERVAL_SECONDS) * 1000
    return now + Math.round(intervalMs * (1 + INTERVAL_JITTER * (random - 0.5)))
  }
  const ticks = new Cron(schedule.cron, { timezone: schedule.timezone ?? DEFAULT_TIMEZONE })
  const [first, second] = ticks.nextRuns(2, new Date(now))
  if (!first) return now + 86_400_000
  const gapMs = second ? second.getTime() - first.getTime() : MAX_CRON_JITTER_MS
  return first.getTime() + Math.round(random * Math.min(MAX_CRON_JITTER_MS, gapMs * CRON_JITTER))
}

/** When to try a failing server again, whatever its schedule. `failures` counts from 1; `random` is in [0, 1]. */
export function retryTick(failures: number, now: number, random: number): number {
  const backoffMs = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** Math.min(failures - 1, 10))
  return now + Math.round(backoffMs * (0.8 + 0.2 * random))
}
