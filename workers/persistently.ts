/** Repeats an idempotent call through an outage, for a bounded time. */
import { setTimeout as delay } from 'node:timers/promises'
import { isPassing } from '../domain/patience.ts'

/** Rejects with the last error after `forMs` or when `signal` ends the patience, or at once with one that will not pass. */
export async function persistently<R>(forMs: number, call: () => Promise<R>, signal?: AbortSignal): Promise<R> {
  const deadline = Date.now() + forMs
  for (let waitMs = 100; ; waitMs = Math.min(2_000, waitMs * 2)) {
    try {
      return await call()
    } catch (error) {
      if (!isPassing(error) || signal?.aborted || Date.now() + waitMs > deadline) throw error
      await delay(waitMs, undefined, { signal }).catch(() => {
        throw error
      })
    }
  }
}
