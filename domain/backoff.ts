export interface Backoff {
  baseMs: number
  capMs: number
  maxAttempts: number
}

export const FILE_BACKOFF: Backoff = { baseMs: 1000, capMs: 5 * 60_000, maxAttempts: 8 }
/**
 * Of connections in a row that ended under one file. A line may be bad for long, and a file that breaks it each time
 * should break it seldom: four hundred are about two hours. Work is to go on within two leases once the line is good,
 * and the copy needs some of that, too.
 */
export const LOST_CONNECTION_BACKOFF: Backoff = { baseMs: 1000, capMs: 30_000, maxAttempts: 400 }
export const ANNOUNCEMENT_BACKOFF = { baseMs: 500, capMs: 30_000 }

/**
 * Exponential backoff with full jitter (source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
 * `attempt` counts from 1; `random` is in [0, 1). At least a tenth of the step is always waited.
 */
export function backoffMs(policy: { baseMs: number; capMs: number }, attempt: number, random: number): number {
  const step = Math.min(policy.capMs, policy.baseMs * 2 ** Math.min(attempt - 1, 30))
  return Math.round(step * (0.1 + 0.9 * random))
}
