import { describe, expect, test } from '@jest/globals'
import { RunningScans } from '../../workers/running-scans.ts'

const now = 1_700_000_000_000
const order = (id: string, scanEpoch = 1, slotId: string | null = `slot-${id}`) => ({
  target: { id },
  scanEpoch,
  slotId,
  failures: 0
})

describe('RunningScans', () => {
  test('a scan is held from its beginning to its end, with the connection that it got later', () => {
    const running = new RunningScans()
    const scan = running.begin(order('a', 3, null), now)
    expect(running.due(now + 10_000)).toEqual([{ id: 'a', scanEpoch: 3, slotId: null }])
    scan.slotId = 'late'
    expect(running.due(now + 10_000)).toEqual([{ id: 'a', scanEpoch: 3, slotId: 'late' }])
    running.end(scan)
    expect([running.due(now + 10_000), running.size]).toEqual([[], 0])
  })

  test('scans of servers that failed before are counted', () => {
    const running = new RunningScans()
    running.begin(order('a'), now)
    const failing = running.begin({ ...order('b'), failures: 3 }, now)
    expect([running.size, running.failing]).toEqual([2, 1])
    running.end(failing)
    expect([running.size, running.failing]).toEqual([1, 0])
  })

  test('a scan that has just begun or was just renewed is left alone', () => {
    const running = new RunningScans()
    running.begin(order('a'), now)
    expect(running.due(now + 7_000)).toEqual([])
    running.renewed(running.due(now + 10_000), [], now + 10_000)
    expect(running.due(now + 17_000)).toEqual([])
    expect(running.due(now + 18_000).length).toBe(1)
  })

  test('a scan that is refused its lease is aborted, and no other one', () => {
    const running = new RunningScans()
    const [a, b] = [running.begin(order('a'), now), running.begin(order('b'), now)]
    running.renewed(running.due(now + 10_000), ['a'], now)
    expect(a.abort.signal.reason).toMatchObject({ type: 'LEASE_LOST' })
    expect(b.abort.signal.aborted).toBe(false)
  })

  test('an answer about an older scan of the same server says nothing about the present one', () => {
    const running = new RunningScans()
    const old = running.begin(order('a', 1), now)
    const asked = running.due(now + 10_000)
    running.end(old)
    const present = running.begin(order('a', 2), now)
    running.renewed(asked, ['a'], now)
    expect(present.abort.signal.aborted).toBe(false)
  })

  test('a scan stops itself before its lease of 30 s can have ended, unless it was renewed', () => {
    const running = new RunningScans()
    const [a, b] = [running.begin(order('a'), now), running.begin(order('b'), now)]
    running.renewed([{ id: 'b', scanEpoch: 1, slotId: null }], [], now + 10_000)
    running.stopStale(now + 19_000)
    expect(a.abort.signal.aborted).toBe(false)
    running.stopStale(now + 20_000)
    expect(a.abort.signal.reason).toMatchObject({ type: 'LEASE_LOST', message: expect.stringContaining('20000 ms') })
    expect(b.abort.signal.aborted).toBe(false)
  })
})
