import { describe, expect, test } from '@jest/globals'
import { Linger } from '../../workers/linger.ts'

const open = new AbortController().signal

describe('a kept connection', () => {
  test('looks for work again when the bell rings', async () => {
    const linger = new Linger()
    const again = linger.wait(60_000, open)
    expect(linger.isWaiting).toBe(true)
    linger.ring()
    expect(await again).toBe(true)
    expect(linger.isWaiting).toBe(false)
  })

  test('is given back at once when its slot is wanted, and never kept again', async () => {
    const linger = new Linger()
    const again = linger.wait(60_000, open)
    linger.yield()
    expect(await again).toBe(false)
    linger.ring()
    expect(await linger.wait(60_000, open)).toBe(false)
  })

  test('is over when the connection ends, or when nothing comes', async () => {
    const linger = new Linger()
    const closed = new AbortController()
    const again = linger.wait(60_000, closed.signal)
    closed.abort()
    expect(await again).toBe(false)
    expect(await linger.wait(60_000, closed.signal)).toBe(false)
    expect(await new Linger().wait(1, open)).toBe(false)
  })
})
