import { describe, expect, test } from '@jest/globals'
import { ProgressMeter } from '../../workers/progress.ts'

describe('ProgressMeter', () => {
  test('has nothing to tell of a copy that is over within a second', () => {
    const meter = new ProgressMeter(1000, 0)
    meter.add(500)
    expect(meter.isDue(999, 1_000)).toBe(false)
    expect(meter.isDue(1_000, 1_000)).toBe(true)
  })

  test('tells at most once in the given time, and only what is new', () => {
    const meter = new ProgressMeter(10_000, 0)
    meter.add(2_000)
    expect(meter.tell(2_000)).toEqual({ bytes: 2_000, bytesPerSecond: 1_000 })
    meter.add(1)
    expect(meter.isDue(2_999, 1_000)).toBe(false)
    expect(meter.isDue(3_000, 1_000)).toBe(true)
    meter.tell(3_000)
    expect(meter.isDue(9_000, 1_000)).toBe(false)
  })

  test('the rate follows the newest bytes, and falls while none come', () => {
    const meter = new ProgressMeter(100_000, 0)
    meter.add(1_000)
    expect(meter.tell(1_000).bytesPerSecond).toBe(1_000)
    meter.add(3_000)
    expect(meter.tell(2_000).bytesPerSecond).toBe(2_000)
    expect(meter.tell(3_000).bytesPerSecond).toBe(1_000)
  })

  test('bytes of an earlier attempt count as done and not as read now', () => {
    const meter = new ProgressMeter(10_000, 0)
    meter.addKept(6_000)
    expect(meter.isDue(5_000, 1_000)).toBe(false)
    meter.add(1_000)
    expect(meter.tell(1_000)).toEqual({ bytes: 7_000, bytesPerSecond: 1_000 })
  })

  test('never tells more than the file holds, though a part was read twice', () => {
    const meter = new ProgressMeter(1_000, 0)
    meter.add(1_500)
    expect(meter.tell(1_000).bytes).toBe(1_000)
  })
})
