/** Readiness by size: a file is stable when size and mtime were equal over N looks and T seconds. */
import type { SettlePolicy } from './server.ts'

export interface SettleState {
  /** Looks in a row that saw the same size and mtime. */
  looks: number
  /** When the first of them was; ms since the epoch. */
  since: number
}

/** The state after one more look; `changed` says that it saw another size or mtime than the look before. */
export function look(state: SettleState | null, changed: boolean, now: number): SettleState {
  if (!state || changed) return { looks: 1, since: now }
  return { looks: state.looks + 1, since: state.since }
}

export function isSettled(state: SettleState, policy: SettlePolicy, now: number): boolean {
  return state.looks >= policy.checks && now - state.since >= policy.seconds * 1000
}

/** When to look again: the looks are spread evenly over the time, and the last one is never too early. */
export function nextLookAt(state: SettleState, policy: SettlePolicy, now: number): number {
  const gap = (policy.seconds * 1000) / Math.max(1, policy.checks - 1)
  const last = state.looks >= policy.checks - 1
  const end = state.since + policy.seconds * 1000
  return Math.max(now + 250, last ? Math.max(end, policy.checks > 1 ? 0 : now) : now + gap)
}
