/** Waiting for what a real system does in its own time: a question asked again and again, never a fixed sleep. */
import { setTimeout as delay } from 'node:timers/promises'

export interface WaitOptions {
  timeoutMs: number
  /** Completes "waited N ms for …". */
  what: string
  everyMs?: number
  /** Told with the failure: the state of things. */
  explain?: () => Promise<string> | string
}

/** The first truthy answer of `condition`. A condition that throws is asked again; its last error is the cause. */
export async function waitFor<T>(
  condition: () => Promise<T> | T,
  { timeoutMs, what, everyMs = 100, explain }: WaitOptions
): Promise<NonNullable<T>> {
  const giveUpAt = Date.now() + timeoutMs
  let cause: unknown
  for (;;) {
    try {
      const answer = await condition()
      if (answer) return answer
      cause = undefined
    } catch (error) {
      cause = error
    }
    if (Date.now() > giveUpAt) {
      const state = explain ? `\n${await explain()}` : ''
      throw new Error(`waited ${timeoutMs} ms for ${what}${state}`, { cause })
    }
    await delay(everyMs)
  }
}
