import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, describe, expect, test } from '@jest/globals'
import { ServiceBroker } from 'moleculer'
import { tickerMixin } from '../../mixins/ticker.mixin.ts'
import { waitFor } from '../support/wait.ts'

describe('a ticker', () => {
  let broker: ServiceBroker | null = null
  afterEach(async () => {
    await broker?.stop()
    broker = null
  })

  /** `act` is what a tick does, `startMs` how long the service takes to start. */
  async function start(act: () => Promise<void>, { startMs = 0, everyMs = 20, takesWork = false } = {}) {
    broker = new ServiceBroker({ logger: false, nodeID: 'one' })
    const service = broker.createService({
      name: 'clock',
      mixins: [tickerMixin({ name: 'tick', everyMs, action: 'clock.act', takesWork })],
      actions: { act },
      started: () => delay(startMs)
    })
    await broker.start()
    return service as unknown as { tickNow(): void }
  }
  const counted = (count: () => number, atLeast: number) =>
    waitFor(() => count() >= atLeast, { what: `${atLeast} ticks`, everyMs: 5 })

  test('ticks on when its first tick came before the service had started', async () => {
    let ticks = 0
    await start(async () => void ticks++, { startMs: 300 })
    await counted(() => ticks, 3)
  })

  test('ticks on after a failure, and never twice at once', async () => {
    let ticks = 0
    let running = 0
    await start(async () => {
      expect(++running).toBe(1)
      await delay(5)
      running--
      if (++ticks % 2) throw new Error('not now')
    })
    await counted(() => ticks, 5)
  })

  test('ticks at once when its bell rings, and once more for a bell that rang during a tick', async () => {
    let ticks = 0
    const act = async () => {
      if (++ticks === 1) service.tickNow()
    }
    const service = await start(act, { everyMs: 3_600_000 })
    service.tickNow()
    await counted(() => ticks, 2)
  })

  test('its stop waits for the tick that is running, and none comes after it', async () => {
    let ticks = 0
    let ended = 0
    await start(async () => {
      ticks++
      await delay(50)
      ended++
    })
    await counted(() => ticks, 1)
    await broker!.stop()
    broker = null
    expect(ended).toBe(ticks)
    await delay(60)
    expect(ended).toBe(ticks)
  })

  test.each([
    { takesWork: true, what: 'takes no more work in once the node leaves' },
    { takesWork: false, what: 'keeps what is in flight until its service is stopped' }
  ])('$what', async ({ takesWork }) => {
    let ticks = 0
    const service = await start(async () => void ticks++, { takesWork })
    await counted(() => ticks, 2)
    await broker!.broadcastLocal('node.leaving')
    const before = ticks
    if (!takesWork) return counted(() => ticks, before + 3)
    service.tickNow()
    await delay(100)
    expect(ticks).toBe(before)
  })
})
