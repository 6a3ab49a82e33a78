import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { Bandwidth, Bucket } from '../../workers/bandwidth.ts'

const KIB = 1024
/** A timer that is late by so much is made up for. */
const SLACK_MS = 50

interface Reader {
  bucket: Bucket
  blockBytes: number
}

/** Readers that ask again as soon as they may; answers the bytes that each asked for until `endMs`, with the times. */
function read(readers: Reader[], clock: { now: number }, endMs: number) {
  const asked: { at: number; bytes: number; reader: number }[] = []
  const waiting = readers.map((_, reader) => ({ reader, at: 0, isTaken: false }))
  for (;;) {
    waiting.sort((a, b) => a.at - b.at)
    const next = waiting[0]!
    if (next.at > endMs) return asked
    clock.now = Math.max(clock.now, next.at)
    const { bucket, blockBytes } = readers[next.reader]!
    if (next.isTaken) asked.push({ at: clock.now, bytes: blockBytes, reader: next.reader })
    next.isTaken = true
    next.at = clock.now + bucket.take(blockBytes)
  }
}

const sum = (all: { bytes: number }[]) => all.reduce((total, { bytes }) => total + bytes, 0)

describe('Bucket', () => {
  test('carries its rate, whatever the blocks and however many readers, and never more in any second', () => {
    const rates = fc.integer({ min: 64 * KIB, max: 4 * KIB * KIB })
    const blocks = fc.array(fc.integer({ min: 16 * KIB, max: 128 * KIB }), { minLength: 1, maxLength: 20 })
    fc.assert(
      fc.property(rates, blocks, (rate, sizes) => {
        const clock = { now: 0 }
        const bucket = new Bucket(rate, null, () => clock.now)
        const asked = read(
          sizes.map((blockBytes) => ({ bucket, blockBytes })),
          clock,
          20_000
        )
        const largest = Math.max(...sizes) * sizes.length
        expect(sum(asked)).toBeGreaterThan(rate * 19 - largest)
        for (let from = 0; from <= 19_000; from += 500) {
          const inSecond = asked.filter(({ at }) => at >= from && at < from + 1000)
          expect(sum(inSecond)).toBeLessThanOrEqual(rate * (1 + SLACK_MS / 1000) + largest)
        }
      }),
      { numRuns: 20 }
    )
  })

  test('a parent holds for all its buckets together, and each bucket for itself', () => {
    const clock = { now: 0 }
    const parent = new Bucket(1000 * KIB, null, () => clock.now)
    const slow = new Bucket(100 * KIB, parent, () => clock.now)
    const free = new Bucket(null, parent, () => clock.now)
    const readers = [slow, free, free].map((bucket) => ({ bucket, blockBytes: 32 * KIB }))
    const asked = read(readers, clock, 20_000)
    const rate = (reader: number) => sum(asked.filter((one) => one.reader === reader)) / 20 / KIB
    expect(rate(0)).toBeGreaterThan(95)
    expect(rate(0)).toBeLessThan(103)
    expect(rate(1)).toBeCloseTo(rate(2), -1)
    expect(rate(0) + rate(1) + rate(2)).toBeGreaterThan(980)
    expect(rate(0) + rate(1) + rate(2)).toBeLessThan(1010)
  })

  test('who waits is served in the order of asking: a small one is not passed by and passes none', () => {
    const bucket = new Bucket(100 * KIB, null, () => 0)
    const waits = [128 * KIB, 1, 128 * KIB, 1].map((bytes) => bucket.take(bytes))
    expect(waits).toEqual(waits.toSorted((a, b) => a - b))
    expect(waits[1]).toBeCloseTo(1280, 0)
  })

  test('what is given back may be taken by others', () => {
    const bucket = new Bucket(100 * KIB, new Bucket(100 * KIB, null, () => 0), () => 0)
    const first = bucket.take(100 * KIB)
    bucket.giveBack(100 * KIB)
    expect(bucket.take(1)).toBe(first)
  })

  test('another rate holds at once, also for what was taken before', () => {
    const bucket = new Bucket(100 * KIB, null, () => 0)
    bucket.take(100 * KIB)
    expect(bucket.take(0)).toBeCloseTo(1000, 0)
    bucket.ownBytesPerSecond = 200 * KIB
    expect(bucket.take(0)).toBeCloseTo(500, 0)
    bucket.ownBytesPerSecond = null
    expect(bucket.take(100 * KIB)).toBe(0)
  })

  test('says the lowest limit that holds for it', () => {
    expect(new Bucket(null).bytesPerSecond).toBeNull()
    expect(new Bucket(5).bytesPerSecond).toBe(5)
    expect(new Bucket(5, new Bucket(3)).bytesPerSecond).toBe(3)
    expect(new Bucket(null, new Bucket(3)).bytesPerSecond).toBe(3)
  })
})

describe('Bandwidth', () => {
  test('a server that comes again at once goes on where it was, so that short stays do not add up to more', () => {
    const bandwidth = new Bandwidth(null)
    bandwidth.of('a', 100 * KIB).take(1000 * KIB)
    bandwidth.of('b', 100 * KIB)
    expect(bandwidth.of('a', 100 * KIB).take(1)).toBeGreaterThan(9000)
    expect(bandwidth.of('b', 100 * KIB).take(1)).toBe(0)
  })

  test("the process's limit holds over all servers", () => {
    const bandwidth = new Bandwidth(100 * KIB)
    bandwidth.of('a', null).take(1000 * KIB)
    expect(bandwidth.of('b', null).take(1)).toBeGreaterThan(9000)
  })
})
