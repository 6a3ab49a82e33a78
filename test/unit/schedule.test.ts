import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { nextTick, retryTick, type Schedule, scheduleProblem } from '../../domain/schedule.ts'

const at = (time: string) => Date.parse(time)
const iso = (ms: number) => new Date(ms).toISOString()
const cron = (expression: string, timezone = 'Europe/Berlin'): Schedule => ({
  interval: null,
  cron: expression,
  timezone
})
const every = (interval: number): Schedule => ({ interval, cron: null, timezone: null })

const times = fc.integer({ min: at('2020-01-01T00:00:00Z'), max: at('2040-01-01T00:00:00Z') })
const randoms = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
const expressions = fc.constantFrom(
  '*/5 * * * *',
  '30 2 * * *',
  '0 0 1 * *',
  '15 10 * * MON-FRI',
  '*/10 * * * * *',
  '@hourly'
)
const zones = fc.constantFrom('UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kathmandu')

describe('nextTick', () => {
  test('the next tick is always later than now, whatever was missed', () => {
    fc.assert(
      fc.property(expressions, zones, times, randoms, (expression, zone, now, random) => {
        expect(nextTick(cron(expression, zone), now, random)).toBeGreaterThan(now)
      })
    )
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 604_800 }), times, randoms, (interval, now, random) => {
        const waitMs = nextTick(every(interval), now, random) - now
        expect(Math.abs(waitMs - interval * 1000)).toBeLessThanOrEqual(interval * 25 + 1)
      })
    )
  })

  test('a daily tick comes once a local day at its local time, over every change of the clocks', () => {
    const clock = (zone: string, ms: number) =>
      new Intl.DateTimeFormat('en-GB', { timeZone: zone, timeStyle: 'short' }).format(ms)
    const day = (zone: string, ms: number) => new Intl.DateTimeFormat('en-CA', { timeZone: zone }).format(ms)
    for (const zone of ['Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe']) {
      const days: string[] = []
      for (let now = at('2026-01-01T12:00:00Z'), n = 0; n < 365; n++) {
        now = nextTick(cron('30 4 * * *', zone), now, 0)
        expect(clock(zone, now)).toBe('04:30')
        days.push(day(zone, now))
      }
      expect(new Set(days).size).toBe(365)
    }
  })

  test('a local time that is skipped comes when the clocks were put forward, one that is repeated comes once', () => {
    const nightly = cron('30 2 * * *')
    expect(iso(nextTick(nightly, at('2026-03-28T12:00:00Z'), 0))).toBe('2026-03-29T01:00:00.000Z')
    expect(iso(nextTick(nightly, at('2026-03-29T01:00:00Z'), 0))).toBe('2026-03-30T00:30:00.000Z')
    expect(iso(nextTick(nightly, at('2026-10-24T12:00:00Z'), 0))).toBe('2026-10-25T00:30:00.000Z')
    expect(iso(nextTick(nightly, at('2026-10-25T00:30:00Z'), 0))).toBe('2026-10-26T01:30:00.000Z')
  })

  test('ticks within an hour go on through an hour that is repeated', () => {
    const ticks: string[] = []
    for (let now = at('2026-10-25T00:00:00Z'); ticks.length < 5; ) {
      now = nextTick(cron('*/30 * * * *'), now, 0)
      ticks.push(iso(now).slice(11, 16))
    }
    expect(ticks).toEqual(['00:30', '01:00', '01:30', '02:00', '02:30'])
  })

  test('the jitter of a cron tick is at most ten seconds and never reaches the tick after it', () => {
    fc.assert(
      fc.property(expressions, zones, times, randoms, (expression, zone, now, random) => {
        const tick = nextTick(cron(expression, zone), now, 0)
        const following = nextTick(cron(expression, zone), tick, 0)
        const jittered = nextTick(cron(expression, zone), now, random)
        expect(jittered).toBeGreaterThanOrEqual(tick)
        expect(jittered - tick).toBeLessThanOrEqual(10_000)
        expect(jittered).toBeLessThan(following)
      })
    )
  })
})

describe('retryTick', () => {
  test('pauses grow up to 20 seconds, so that an outage of any length is over within two leases', () => {
    const now = at('2026-11-24T00:00:00Z')
    const waits = Array.from({ length: 12 }, (_, i) => retryTick(i + 1, now, 1) - now)
    expect(waits.slice(0, 5)).toEqual([5_000, 10_000, 20_000, 20_000, 20_000])
    expect(waits.at(-1)).toBe(20_000)
    expect(retryTick(40, now, 0) - now).toBe(16_000)
  })
})

describe('scheduleProblem', () => {
  test.each(['* * * * *', '0 */2 * * *', '*/10 * * * * *', '@daily', '0 0 L * *', '0 0 29 2 *', '0 9 * * MON#1'])(
    'takes %s',
    (expression) => expect(scheduleProblem(expression, 'Europe/Berlin')).toBeNull()
  )

  test.each(['', 'x', '* * * *', '61 * * * *', '0 0 31 2 *', '@reboot', '* * * * * * 2020', '2026-11-25T00:00:00'])(
    'refuses %j as cron',
    (expression) => expect(scheduleProblem(expression, 'UTC')).toMatchObject({ field: 'cron' })
  )

  test.each(['', 'Mars/Base', 'Europe', '\0'])('refuses the time zone %j', (zone) => {
    expect(scheduleProblem('* * * * *', zone)).toMatchObject({ field: 'timezone' })
  })

  test('any text is answered, and what is taken has a next tick', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9*/,LW#?-]{1,6}( [0-9*/,LW#?-]{1,6}){4}$/)), (text) => {
        if (scheduleProblem(text, 'UTC') === null) expect(nextTick(cron(text, 'UTC'), 0, 0)).toBeGreaterThan(0)
      })
    )
  })
})
