import { describe, expect, test } from '@jest/globals'
import { type Lane, Lanes, lanesOf } from '../../drivers/lanes.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'

const never = new AbortController().signal

/** Takes without waiting for it: `lane` is filled in when it comes. */
function taking(lanes: Lanes, signal = never): { lane: Lane | null; failed: unknown } {
  const taken: { lane: Lane | null; failed: unknown } = { lane: null, failed: null }
  lanes.take(signal).then(
    (lane) => {
      taken.lane = lane
    },
    (error) => {
      taken.failed = error
    }
  )
  return taken
}

const settled = () => new Promise((resolve) => setImmediate(resolve))

describe('Lanes', () => {
  test('hand out each channel once, and then nothing until one is given back', async () => {
    const lanes = new Lanes(2)
    const [first, second] = [await lanes.take(never), await lanes.take(never)]
    const third = taking(lanes)
    await settled()
    expect([first.channel, second.channel].sort()).toEqual([0, 1])
    expect(third.lane).toBeNull()
    second.done()
    await settled()
    expect(third.lane?.channel).toBe(second.channel)
  })

  test('let the next range ask while the one before is still under way', async () => {
    const lanes = new Lanes(1)
    const first = await lanes.take(never)
    first.asked(1)
    expect((await lanes.take(never)).channel).toBe(first.channel)
  })

  test('have twice as many ranges under way as channels at most', async () => {
    const lanes = new Lanes(1)
    const first = await lanes.take(never)
    first.asked(1)
    ;(await lanes.take(never)).asked(1)
    const third = taking(lanes)
    await settled()
    expect(third.lane).toBeNull()
    first.done()
    await settled()
    expect(third.lane).not.toBeNull()
  })

  test('serve in the order of asking', async () => {
    const lanes = new Lanes(1)
    const first = await lanes.take(never)
    const [second, third] = [taking(lanes), taking(lanes)]
    first.done()
    await settled()
    expect(second.lane).not.toBeNull()
    expect(third.lane).toBeNull()
  })

  test('take a lane back once, however often it is given back', async () => {
    const lanes = new Lanes(1)
    const first = await lanes.take(never)
    for (const giveBack of [first.asked, first.asked, first.done, first.done]) giveBack(1)
    await lanes.take(never)
    const third = taking(lanes)
    await settled()
    expect(third.lane).toBeNull()
  })

  test('forget a range that is cancelled while it waits', async () => {
    const lanes = new Lanes(1)
    const first = await lanes.take(never)
    const cancel = new AbortController()
    const cancelled = taking(lanes, cancel.signal)
    const last = taking(lanes)
    cancel.abort(new Error('cancelled'))
    first.done()
    await settled()
    expect((cancelled.failed as Error).message).toBe('cancelled')
    expect(cancelled.lane).toBeNull()
    expect(last.lane).not.toBeNull()
  })

  test('become more, up to the most, for each range that one carried slowly', async () => {
    let nowMs = 0
    const lanes = new Lanes(1, 2, () => nowMs)
    const fast = await lanes.take(never)
    nowMs += 100
    fast.asked(16e6)
    fast.done()
    const short = await lanes.take(never)
    nowMs += 100
    short.asked(1e6)
    short.done()
    const slow = await lanes.take(never)
    const second = taking(lanes)
    await settled()
    expect(second.lane).toBeNull()

    nowMs += 1_000
    slow.asked(16e6)
    slow.done()
    await settled()
    const third = await lanes.take(never)
    expect([second.lane!.channel, third.channel].sort()).toEqual([0, 1])

    nowMs += 1_000
    third.asked(16e6)
    third.done()
    await lanes.take(never)
    const fourth = taking(lanes)
    await settled()
    expect(fourth.lane).toBeNull()
  })
})

describe('the lanes of a connection', () => {
  test.each([
    { latencyMs: 1, maxChannels: 10, most: 4 },
    { latencyMs: 20, maxChannels: 10, most: 6 },
    { latencyMs: 100, maxChannels: 10, most: 10 },
    { latencyMs: 100, maxChannels: 3, most: 3 }
  ])('are $most at most over $latencyMs ms where the server opens $maxChannels channels', ({ most, ...server }) => {
    const sftp = server as Sftp
    expect(lanesOf(sftp).most).toBe(most)
    expect(lanesOf(sftp)).toBe(lanesOf(sftp))
  })
})

describe('Lanes that carry a hundred megabytes a second', () => {
  test.each([
    { bytes: [], areFast: false },
    { bytes: [99e6], areFast: false },
    { bytes: [100e6], areFast: true },
    { bytes: [100e6, 99e6], areFast: false },
    { bytes: [100e6, 99e6, 100e6], areFast: true },
    // The last range of a file is short, and tells nothing.
    { bytes: [100e6, 1e6], areFast: true }
  ])('are fast: $areFast after ranges of $bytes bytes, each a second', async ({ bytes, areFast }) => {
    let nowMs = 0
    const lanes = new Lanes(2, 4, () => nowMs)
    for (const each of bytes) {
      const lane = await lanes.take(never)
      nowMs += 1000
      lane.asked(each)
      lane.done()
    }
    await lanes.areFast()
    expect(await lanes.areFast()).toBe(areFast)
  })

  test('are not taken for fast by whoever asks first, and the next one waits for the first range', async () => {
    const lanes = new Lanes(2, 4)
    expect(await lanes.areFast()).toBe(false)
    const lane = await lanes.take(never)
    const next = lanes.areFast()
    lane.asked(100e6)
    expect(await next).toBe(true)
  })

  test('are not waited for when they are many from the beginning, as to a distant server', async () => {
    const lanes = new Lanes(4)
    await lanes.areFast()
    const next = lanes.areFast()
    ;(await lanes.take(never)).asked(100e6)
    expect(await next).toBe(false)
  })
})

describe('Lanes whose ranges are slow', () => {
  /** Begins as many ranges as may be on their way; each has asked for everything. */
  async function fill(lanes: Lanes): Promise<Lane[]> {
    const begun: Lane[] = []
    for (;;) {
      const end = new AbortController()
      const { lane } = await settledOf(taking(lanes, end.signal))
      if (!lane) {
        end.abort()
        return begun
      }
      lane.asked(1)
      begun.push(lane)
    }
  }
  async function settledOf<T>(taken: T): Promise<T> {
    await settled()
    return taken
  }

  /** Four lanes of which eight ranges side by side took so long. */
  async function having(tookMs: number) {
    const clock = { now: 0 }
    const lanes = new Lanes(4, 4, () => clock.now)
    const begun = await fill(lanes)
    expect(begun).toHaveLength(8)
    clock.now = tookMs
    for (const range of begun) range.done()
    return { lanes, clock }
  }

  test.each([
    { tookMs: 9_000, most: 8 },
    { tookMs: 20_000, most: 4 },
    { tookMs: 40_000, most: 2 },
    { tookMs: 600_000, most: 1 }
  ])(
    'have $most on their way after eight that took $tookMs ms: as many as end in ten seconds',
    async ({ tookMs, most }) => {
      const { lanes } = await having(tookMs)
      expect(await fill(lanes)).toHaveLength(most)
    }
  )

  test('have one more on their way for each that was quick', async () => {
    const { lanes, clock } = await having(40_000)
    const quick = await fill(lanes)
    clock.now += 4_000
    for (const range of quick) range.done()
    expect(await fill(lanes)).toHaveLength(4)
  })

  test('learn nothing from a range that asked for nothing', async () => {
    const { lanes } = await having(40_000)
    ;(await lanes.take(never)).done()
    expect(await fill(lanes)).toHaveLength(2)
  })

  test('are as many again where fewer took as long: each has a limit of its own', async () => {
    const { lanes, clock } = await having(40_000)
    const fewer = await fill(lanes)
    expect(fewer).toHaveLength(2)
    clock.now += 40_000
    for (const range of fewer) range.done()
    const again = await fill(lanes)
    expect(again).toHaveLength(8)
    clock.now += 40_000
    for (const range of again) range.done()
    expect(await fill(lanes)).toHaveLength(8)
  })
})
