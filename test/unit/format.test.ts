import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { bytes, nextScan, since, visible } from '../../cli/format.ts'

describe('visible', () => {
  test('no control character and no change of direction reaches the terminal', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary' }),
        fc.constantFrom('\u001b[2J', '\r', '\u202e', '\u009b', '\u0085'),
        (text, odd) => {
          expect(visible(text + odd)).not.toMatch(/[\p{Cc}\u200e\u200f\u202a-\u202e\u2066-\u2069]/u)
        }
      )
    )
  })

  test('says which character it was, and leaves the others', () => {
    expect(visible('a\nb\u001b[0m\u202e文🚢\u007f')).toBe('a\\nb\\u001b[0m\\u202e文🚢\\u007f')
  })
})

describe('bytes', () => {
  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [1_572_864, '1.5 MiB'],
    [1_048_575, '1.0 MiB'],
    [5 * 1024 ** 4, '5.0 TiB'],
    [5000 * 1024 ** 4, '5000.0 TiB']
  ])('%d is %s', (size, shown) => {
    expect(bytes(size)).toBe(shown)
  })
})

describe('since', () => {
  test('says how long ago in the unit that fits', () => {
    expect(since(null)).toBe('never')
    expect(since(Date.now() + 60_000)).toBe('0 s ago')
    expect(since(Date.now() - 300_000)).toBe('5 min ago')
    expect(since(1_700_000_000_000)).toBe('2023-11-14T22:13:20.000Z')
  })
})

describe('nextScan', () => {
  const now = Date.parse('2026-11-24T12:00:00Z')
  const server = { state: 'active' as const, failures: 0, scanLeaseUntil: 0, nextScanAt: now + 40_000 }

  test('says when, and why not by the schedule', () => {
    expect(nextScan(server, now)).toBe('in 40 s')
    expect(nextScan({ ...server, nextScanAt: now - 5 }, now)).toBe('in 0 s')
    expect(nextScan({ ...server, nextScanAt: now + 86_400_000 }, now)).toBe('2026-11-25T12:00:00.000Z')
    expect(nextScan({ ...server, failures: 3 }, now)).toBe('in 40 s, after 3 failures')
    expect(nextScan({ ...server, scanLeaseUntil: now + 1 }, now)).toBe('is running')
    expect(nextScan({ ...server, state: 'paused' }, now)).toBe('when resumed')
    expect(nextScan({ ...server, state: 'stopped' }, now)).toBe('when mended')
  })
})
