/**
 * The state machine of a file's record. Every change of state is one of the functions here:
 * pure, from a record to the next one (or null: refused), written by `files` as one compare-and-set.
 *
 *   settling -> pending -> downloading -> uploaded -> notified
 *   aside: failed, skipped, vanished; each opens again when the file changes, returns, or the policy takes it
 *
 * Fence: a claim adds one to `epoch`; whatever the worker of an older epoch reports is refused.
 * The announcement (outbox) lives in the record, so that `uploaded` and "must be announced" are one write.
 */
import { type AfterUploadOutcome, claimStep, endStep, makeDue, releasesName } from './after-upload.ts'
import { backoffMs, FILE_BACKOFF, LOST_CONNECTION_BACKOFF } from './backoff.ts'
import type { RecordedError } from './errors.ts'
import {
  type AnnouncementState,
  type FileRecord,
  isStored,
  LEASE_MS,
  type ObjectInfo,
  SERVER_DELETED,
  SKEW_MS,
  UNTRIED,
  type UploadState
} from './file-record.ts'
import { enter } from './history.ts'
import { laterTurn } from './order.ts'
import { backToStored, hasGivenUp, isRefetching } from './refetch.ts'

/** A worker takes a pending file. The attempt is counted here: a file that kills its worker must end in `failed` too. */
export function claim(file: FileRecord, worker: string, key: string, now: number): FileRecord | null {
  if (file.status !== 'pending' || file.dueAt > now) return null
  const taken = { epoch: file.epoch + 1, attempts: file.attempts + 1, worker, leaseUntil: now + LEASE_MS }
  return enter(
    file,
    {
      ...taken,
      status: 'downloading',
      reservedKey: file.reservedKey ?? key,
      partsAtClaim: file.upload?.parts.length ?? 0,
      progress: null
    },
    now,
    null
  )
}

/** Whether the worker that holds `epoch` still holds the file. */
export function holds(file: FileRecord, epoch: number): boolean {
  return file.status === 'downloading' && file.epoch === epoch
}

export function renew(file: FileRecord, epoch: number, progress: FileRecord['progress'], now: number) {
  return holds(file, epoch) ? { ...file, leaseUntil: now + LEASE_MS, progress, updatedAt: now } : null
}

/**
 * The intent to upload, or parts that were finished since the last call, are kept, so that any worker goes on from
 * there. Only what is new travels: ten thousand parts would be more than one message of the network carries.
 */
export function keepUpload(file: FileRecord, epoch: number, upload: UploadState | null, now: number) {
  if (!holds(file, epoch)) return null
  const isSame = upload !== null && upload.uploadId !== null && file.upload?.uploadId === upload.uploadId
  const kept = isSame ? { ...upload, parts: joinParts(file.upload!.parts, upload.parts) } : upload
  const gotOn = (upload?.parts.length ?? 0) > 0 ? { lostConnections: 0 } : {}
  return { ...file, ...gotOn, upload: kept, leaseUntil: now + LEASE_MS, updatedAt: now }
}

/**
 * What is left of an upload whose parts are of no use any more: that there may be one. Aborting it is best effort, and
 * whoever copies the file next finds it under its key; its parts are never gone on from, whatever size and time say.
 */
function strayOf(file: FileRecord): UploadState | null {
  return file.upload && { ...file.upload, uploadId: null, parts: [] }
}

/** An upload of the store that nobody goes on with. */
export interface DroppedUpload {
  key: string
  uploadId: string
}

/** What is dropped of a file that is not to be copied any more: its upload, where one is known. */
export function droppedUploads(file: FileRecord): DroppedUpload[] {
  const uploadId = file.upload?.uploadId
  return uploadId && file.reservedKey ? [{ key: file.reservedKey, uploadId }] : []
}

/** The same of a refetch that this step ended without its worker, who would have aborted what there is. */
export function droppedBy(before: FileRecord, after: FileRecord | null): DroppedUpload[] {
  return after && hasGivenUp(before, after) ? droppedUploads(before) : []
}

function joinParts(known: UploadState['parts'], finished: UploadState['parts']): UploadState['parts'] {
  const byNumber = new Map([...known, ...finished].map((part) => [part.number, part]))
  return [...byNumber.values()].sort((a, b) => a.number - b.number)
}

/** How an attempt ended; a closed set, mapped to a state here and nowhere else. */
export type Outcome =
  | { kind: 'stored'; object: Omit<ObjectInfo, 'storedAt'>; messageId: string }
  | { kind: 'changed'; size: number; mtime: number }
  | { kind: 'vanished' }
  /** The attempt is used up; the file waits and is tried again, until the last one. */
  | { kind: 'retry'; error: RecordedError }
  /** The connection ended under it: no attempt is used up, until it was so too often in a row. */
  | { kind: 'lost'; error: RecordedError }
  /** Not the file's fault: no attempt is used up. */
  | { kind: 'deferred'; error: RecordedError; waitMs: number }
  /** Trying again would not help. */
  | { kind: 'rejected'; error: RecordedError }
  /** Something that is not ours has the object's key: the file takes another one. */
  | { kind: 'keyTaken'; key: string }

/** The state after an attempt; null when the worker no longer holds the file. `random` in [0, 1). */
export function finish(file: FileRecord, epoch: number, outcome: Outcome, now: number, random: number) {
  if (!holds(file, epoch)) return null
  const free = { leaseUntil: 0, progress: null }
  switch (outcome.kind) {
    case 'stored': {
      const announcement: AnnouncementState = {
        status: 'due',
        messageId: outcome.messageId,
        attempts: 0,
        dueAt: now,
        // A confirmation under way of a message from before a refetch does not answer this one.
        epoch: (file.refetch?.announcement.epoch ?? -1) + 1,
        leaseUntil: 0,
        at: null,
        error: null
      }
      const stored = { object: { ...outcome.object, storedAt: now }, announcement, refetch: null, upload: null }
      return enter(file, { ...free, ...stored, status: 'uploaded', error: null }, now, null)
    }
    case 'changed': {
      if (isRefetching(file)) return backToStored({ ...file, ...free }, 'changed', now)
      const settle = { looks: 1, since: now }
      const seen = {
        size: outcome.size,
        mtime: outcome.mtime,
        settle,
        ...UNTRIED,
        upload: strayOf(file),
        dueAt: now + 1000
      }
      return enter(file, { ...free, ...seen, status: 'settling', reason: 'look 1' }, now, 'the file changed')
    }
    case 'vanished':
      if (isRefetching(file)) return backToStored({ ...file, ...free }, 'vanished', now)
      return enter(
        file,
        { ...free, status: 'vanished', upload: strayOf(file) },
        now,
        'gone from the server before it was read'
      )
    case 'rejected':
      if (isRefetching(file)) return backToStored({ ...file, ...free }, outcome.error, now)
      return enter(file, { ...free, status: 'failed', error: outcome.error }, now, outcome.error.message)
    case 'deferred': {
      const back = { error: outcome.error, attempts: Math.max(0, file.attempts - 1), dueAt: now + outcome.waitMs }
      return enter(file, { ...free, ...again(back), status: 'pending' }, now, outcome.error.message)
    }
    case 'keyTaken': {
      const back = { reservedKey: outcome.key, attempts: file.attempts - 1, upload: null, dueAt: now }
      return enter(
        file,
        { ...free, ...again(back), status: 'pending' },
        now,
        'the key is taken by an object that is not ours'
      )
    }
    case 'lost':
      return goOnLater({ ...file, ...free }, outcome.error, now, random)
    case 'retry':
      return retryLater({ ...file, ...free }, outcome.error, now, random)
  }
}

function retryLater(file: FileRecord, error: RecordedError, now: number, random: number): FileRecord {
  if (file.attempts >= FILE_BACKOFF.maxAttempts) return giveUp(file, error, now)
  const dueAt = now + backoffMs(FILE_BACKOFF, file.attempts, random)
  return enter(file, { ...again({ dueAt }), status: 'pending', error }, now, error.message)
}

/** One lost connection does not tell whether the line is bad or the file breaks it: only very many do. */
function goOnLater(file: FileRecord, error: RecordedError, now: number, random: number): FileRecord {
  const lostConnections = (file.lostConnections ?? 0) + 1
  if (lostConnections >= LOST_CONNECTION_BACKOFF.maxAttempts) {
    const message = `${error.message} It was number ${lostConnections} in a row to end under this file.`
    return giveUp({ ...file, lostConnections }, { ...error, message }, now)
  }
  const dueAt = now + backoffMs(LOST_CONNECTION_BACKOFF, lostConnections, random)
  const back = { lostConnections, error, attempts: Math.max(0, file.attempts - 1), dueAt }
  return enter(file, { ...again(back), status: 'pending' }, now, error.message)
}

function giveUp(file: FileRecord, error: RecordedError, now: number): FileRecord {
  if (isRefetching(file)) return backToStored(file, error, now)
  return enter(file, { status: 'failed', error }, now, error.message)
}

/** A later try has its turn when it is due. */
function again<T extends { dueAt: number }>(change: T): T & { turn: string } {
  return { ...change, turn: laterTurn(change.dueAt) }
}

/** A lease that ran out: the worker is lost. */
export function rescue(file: FileRecord, now: number, random: number): FileRecord | null {
  if (file.status !== 'downloading' || file.leaseUntil + SKEW_MS > now) return null
  return handOver(file, `the lease of ${file.worker} ran out`, now, random)
}

/** Its worker is lost for good. An attempt that had finished a part costs none. null when nobody had it. */
export function handOver(file: FileRecord, why: string, now: number, random: number): FileRecord | null {
  if (file.status !== 'downloading') return null
  const error = { type: 'WORKER_LOST', message: why, at: now }
  const gotOn = (file.upload?.parts.length ?? 0) > file.partsAtClaim
  const attempts = gotOn ? file.attempts - 1 : file.attempts
  return retryLater({ ...file, attempts, leaseUntil: 0, progress: null }, error, now, random)
}

/**
 * An operator asks for another try, of the copy or of what comes after it; null where there is nothing to try. What had
 * not settled by then settles first: it may be half a file.
 */
export function retry(file: FileRecord, now: number): FileRecord | null {
  if (file.status === 'notified' && file.afterUpload?.status === 'failed') {
    return enter(file, { status: 'notified', afterUpload: makeDue(file.afterUpload, now) }, now, 'retried')
  }
  const open = file.status === 'failed' || file.status === 'vanished' || file.status === 'pending'
  if (!open) return null
  const fresh = { ...UNTRIED, error: null, worker: null }
  // Cancelled, or gone, before it was known to be whole.
  const hasToSettle = file.status !== 'pending' && file.settle === null
  if (hasToSettle) return enter(file, { ...fresh, dueAt: now, status: 'settling' }, now, 'retried')
  return enter(file, { ...fresh, ...again({ dueAt: now }), status: 'pending' }, now, 'retried')
}

/** An operator stops it; null where nothing is under way. What the worker still reports is refused by the epoch. */
export function cancel(file: FileRecord, now: number): FileRecord | null {
  if (file.status !== 'settling' && file.status !== 'pending' && file.status !== 'downloading') return null
  const error = { type: 'CANCELLED', message: 'cancelled by an operator', at: now }
  if (isRefetching(file)) return backToStored({ ...file, epoch: file.epoch + 1 }, error, now)
  const fenced = { epoch: file.epoch + 1, leaseUntil: 0, worker: null, progress: null, reason: null }
  const settle = file.status === 'settling' ? null : file.settle
  return enter(file, { ...fenced, settle, upload: strayOf(file), status: 'failed', error }, now, error.message)
}

/**
 * Gone from the server, by a complete listing and a look of its own. Where a worker has been at it, the object may be
 * stored and only the answer was lost: the next worker finds that out, and says `uploaded` or `vanished`.
 */
export function vanish(file: FileRecord, now: number): FileRecord | null {
  if (file.status !== 'settling' && file.status !== 'pending') return null
  // A worker that has begun an upload left something behind, and the next one clears it away.
  if (isRefetching(file) && file.upload === null) return backToStored(file, 'vanished', now)
  const free = { reason: null, settle: null, worker: null, leaseUntil: 0 }
  // A file that was never claimed, though an operator cancelled it once, cannot have been stored.
  if (file.reservedKey === undefined) return enter(file, { ...free, status: 'vanished' }, now, 'gone from the server')
  if (file.status === 'pending') return file.dueAt > now ? { ...file, dueAt: now, updatedAt: now } : null
  const why = 'gone from the server; a worker looks whether it was stored'
  return enter(file, { ...free, status: 'pending', dueAt: now }, now, why)
}

/** Its server was removed before the file was stored. */
export function abandon(file: FileRecord, now: number): FileRecord | null {
  if (isStored(file) || file.reason === SERVER_DELETED) return null
  if (isRefetching(file)) {
    const error = { type: 'NOT_FOUND', message: 'its server was removed', at: now }
    return backToStored({ ...file, epoch: file.epoch + 1 }, error, now)
  }
  // A sighting that comes late is older than this: it does not open the record again.
  const fenced = { epoch: file.epoch + 1, seenEpoch: Number.MAX_SAFE_INTEGER, leaseUntil: 0 }
  const freed = { worker: null, upload: null, progress: null, settle: null }
  return enter(file, { ...fenced, ...freed, status: 'skipped', reason: SERVER_DELETED }, now, SERVER_DELETED)
}

/** A notifier takes a due announcement; null when it is not due or another one has it. */
export function claimAnnouncement(file: FileRecord, now: number): FileRecord | null {
  const due = file.announcement
  if (due?.status !== 'due' || due.dueAt > now) return null
  const until = now + LEASE_MS
  return { ...file, announcement: { ...due, epoch: due.epoch + 1, dueAt: until + SKEW_MS, leaseUntil: until } }
}

/** The broker has confirmed and routed it. Also for a record that is `notified` and was announced again. */
export function announced(file: FileRecord, epoch: number, now: number): FileRecord | null {
  const sent = file.announcement
  if (sent?.status !== 'due' || sent.epoch !== epoch || !isStored(file)) return null
  const announcement: AnnouncementState = { ...sent, status: 'sent', at: now, leaseUntil: 0, error: null }
  const { afterUpload } = file
  const next = afterUpload?.status === 'waiting' ? { afterUpload: makeDue(afterUpload, now) } : {}
  return enter(file, { ...next, status: 'notified', announcement, worker: null }, now, null)
}

/** A worker takes the step after the upload; null when it is not due or another one has it. */
export function claimAfterUpload(file: FileRecord, now: number): FileRecord | null {
  const afterUpload = file.status === 'notified' ? claimStep(file.afterUpload, now) : null
  return afterUpload ? { ...file, afterUpload } : null
}

/**
 * How the step ended; null when the worker no longer holds it. Never changes the file's state. `scanEpoch`: of the server,
 * read after a step that releases the name. That scan and those before it may have listed the source while it was there,
 * and are not believed about its name any more; the next one is.
 */
export function endAfterUpload(
  file: FileRecord,
  epoch: number,
  outcome: AfterUploadOutcome,
  now: number,
  random: number,
  scanEpoch = 0
): FileRecord | null {
  if (file.afterUpload?.status !== 'due' || file.afterUpload.epoch !== epoch) return null
  const released = releasesName(outcome)
  const { state, why } = endStep(file.afterUpload, outcome, now, random)
  const seenEpoch = released ? Math.max(file.seenEpoch, scanEpoch + 1) : file.seenEpoch
  const next = { ...file, afterUpload: state, released: file.released || released, seenEpoch, updatedAt: now }
  return why === null ? next : enter(next, { status: file.status, worker: null }, now, why)
}

export function announcementFailed(file: FileRecord, epoch: number, error: RecordedError, waitMs: number, now: number) {
  const due = file.announcement
  if (due?.status !== 'due' || due.epoch !== epoch) return null
  const announcement = { ...due, attempts: due.attempts + 1, dueAt: now + waitMs, leaseUntil: 0, error }
  return { ...file, announcement, updatedAt: now }
}

/** Makes the announcement due again without changing the state; null for a file that is not stored. */
export function announceAgain(file: FileRecord, now: number): FileRecord | null {
  if (!isStored(file) || !file.announcement) return null
  // The next epoch: a confirmation under way is of a message from before, and does not answer this.
  const { epoch, ...rest } = file.announcement
  const fresh = { status: 'due' as const, epoch: epoch + 1, leaseUntil: 0, dueAt: now, attempts: 0, error: null }
  const announcement: AnnouncementState = { ...rest, ...fresh }
  return { ...file, announcement, updatedAt: now }
}
