/** The whole as it runs in production: backends, Longshore on them, and a consumer of its announcements. */
import { type Consumer, startConsumer } from './consumer.ts'
import {
  type Backends,
  type BackendsOptions,
  type Longshore,
  type LongshoreOptions,
  startBackends,
  startLongshore
} from './longshore.ts'

export interface World {
  backends: Backends
  longshore: Longshore
  consumer: Consumer
  /** Ends all of them, Longshore first. */
  stop(): Promise<void>
}

/** Where one of them does not start, the others are ended. */
export async function startWorld({
  proxied,
  ...options
}: BackendsOptions & Omit<LongshoreOptions, 'backends'> = {}): Promise<World> {
  const stops: (() => Promise<void>)[] = []
  const stop = async () => {
    for (const one of stops.splice(0).reverse()) await one()
  }
  try {
    const backends = await startBackends({ proxied })
    stops.push(backends.stop)
    const consumer = await startConsumer(backends.queue)
    stops.push(consumer.close)
    const longshore = await startLongshore({ ...options, backends })
    stops.push(longshore.stop)
    return { backends, longshore, consumer, stop }
  } catch (error) {
    await stop()
    throw error
  }
}
