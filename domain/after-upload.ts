/**
 * What becomes of the source once a version is announced: a step of its own beside the file's state, which it never
 * changes. Kept in the record, absent where the policy keeps files.
 *
 *   waiting --announced--> due -> done      deleted, moved, or gone already
 *                          due -> left      another file has the name: it is left alone and is the next version
 *                          due -> due       tried again later
 *                          due -> failed    attempts used up; an operator's retry makes it due again
 *
 * `done` and `left` release the record: the next file of its name is a new version.
 */
import { backoffMs } from './backoff.ts'
import type { RecordedError } from './errors.ts'

export interface AfterUploadState {
  status: 'waiting' | 'due' | 'done' | 'left' | 'failed'
  attempts: number
  epoch: number
  /** There only while it is due, since it is what the index holds; ms since the epoch. */
  dueAt?: number
  /** There only while a worker has it. */
  leaseUntil?: number
  at: number | null
  movedTo: string | null
  error: RecordedError | null
}

/** What a worker needs for it. `epoch` is that of the claim; `mtime` is in ms since the epoch. */
export interface AfterUploadStep {
  id: string
  epoch: number
  path: string
  size: number
  mtime: number
}

/** How an attempt ended. */
export type AfterUploadOutcome =
  | { kind: 'deleted' | 'gone' }
  | { kind: 'moved'; to: string }
  /** Another file has the name by now. */
  | { kind: 'left' }
  | { kind: 'retry'; error: RecordedError }
  /** Not the file's fault: no attempt is used up. */
  | { kind: 'deferred'; error: RecordedError | null; waitMs: number }
  /** The policy keeps files by now, or the server was removed. */
  | { kind: 'kept' }

export const AFTER_UPLOAD_BACKOFF = { baseMs: 2_000, capMs: 30 * 60_000, maxAttempts: 12 }
export const AFTER_UPLOAD_LEASE_MS = 35_000

export const waitingForUpload: AfterUploadState = {
  status: 'waiting',
  attempts: 0,
  epoch: 0,
  at: null,
  movedTo: null,
  error: null
}

/** Due from the announcement on, and again when an operator asks for another try. */
export function makeDue(state: AfterUploadState, now: number): AfterUploadState {
  return { ...state, status: 'due', attempts: 0, dueAt: now }
}

/** A worker takes the step, with the next epoch; null when it is not due. One that is lost gives it back when `dueAt` comes. */
export function claimStep(state: AfterUploadState | null | undefined, now: number): AfterUploadState | null {
  if (state?.status !== 'due' || (state.dueAt ?? 0) > now) return null
  const leaseUntil = now + AFTER_UPLOAD_LEASE_MS
  return { ...state, epoch: state.epoch + 1, attempts: state.attempts + 1, dueAt: leaseUntil, leaseUntil }
}

/** Whether what has the name from now on is another file: the next one of it is a new version. */
export function releasesName({ kind }: AfterUploadOutcome): boolean {
  return kind === 'deleted' || kind === 'moved' || kind === 'gone' || kind === 'left'
}

/** The state after an attempt, and the reason for the history; null state: nothing is to be done any more. */
export function endStep(
  state: AfterUploadState,
  outcome: AfterUploadOutcome,
  now: number,
  random: number
): { state: AfterUploadState | null; why: string | null } {
  const { leaseUntil: _, ...held } = state
  const { dueAt: __, ...rest } = held
  const ended = { ...rest, at: now, error: null }
  switch (outcome.kind) {
    case 'deleted':
      return { state: { ...ended, status: 'done' }, why: 'deleted from the server' }
    case 'moved':
      return { state: { ...ended, status: 'done', movedTo: outcome.to }, why: `moved to ${outcome.to}` }
    case 'gone':
      return { state: { ...ended, status: 'done' }, why: 'gone from the server already' }
    case 'left':
      return { state: { ...ended, status: 'left' }, why: 'left alone: another file has its name' }
    case 'kept':
      return { state: null, why: null }
    case 'deferred': {
      const back = { attempts: state.attempts - 1, dueAt: now + outcome.waitMs, error: outcome.error ?? state.error }
      return { state: { ...held, ...back }, why: null }
    }
    case 'retry': {
      const { error } = outcome
      if (state.attempts >= AFTER_UPLOAD_BACKOFF.maxAttempts) {
        return { state: { ...ended, status: 'failed', error }, why: error.message }
      }
      const later = now + backoffMs(AFTER_UPLOAD_BACKOFF, state.attempts, random)
      return { state: { ...held, dueAt: later, error }, why: null }
    }
  }
}
