/** Waiting for what a real system does in its own time: a question asked again and again, never a fixed sleep. */
import { setTimeout as delay } from 'node:timers/promises'

/** What anything may take that is not asked to be quick: a machine with more to do than it can turns seconds into minutes. */
export const PATIENCE_MS = 120_000

export interface WaitOptions {
  /** By default PATIENCE_MS. How quick something is belongs into an expectation, not here. */
  timeoutMs?: number
  /** Completes "waited N ms for …". */
  what: string
  everyMs?: number
  /** Told with the failure: the state of things. */
  explain?: () => Promise<string> | string
}

/** The first truthy answer of `condition`. A condition that throws is asked again; its last error is the cause. */
export async function waitFor<T>(
  condition: () => Promise<T> | T,
  { timeoutMs = PATIENCE_MS, what, everyMs = 100, explain }: WaitOptions
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
