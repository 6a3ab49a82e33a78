/**
 * The record of one version of a file, and its state machine. Every change of state is one of the functions here:
 * pure, from a record to the next one (or null: refused), written by `files` as one compare-and-set.
 *
 *   settling -> pending -> downloading -> uploaded -> notified
 *   aside: failed, skipped, vanished; each opens again when the file changes, returns, or the policy takes it
 *
 * Fence: a claim adds one to `epoch`; whatever the worker of an older epoch reports is refused.
 * The announcement (outbox) lives in the record, so that `uploaded` and "must be announced" are one write.
 */
import { createHash } from 'node:crypto'
import {
  type AfterUploadOutcome,
  type AfterUploadState,
  claimStep,
  endStep,
  makeDue,
  waitingForUpload
} from './after-upload.ts'
import { backoffMs, FILE_BACKOFF } from './backoff.ts'
import type { RecordedError } from './errors.ts'
import { enter, type HistoryEntry } from './history.ts'
import { firstTurn, laterTurn, type Order } from './order.ts'
import { ripen } from './readiness.ts'
import { backToStored, isRefetching, type RefetchState } from './refetch.ts'
import type { ServerPolicy, SettlePolicy } from './server.ts'
import type { SettleState } from './settle.ts'

export const FILE_STATUSES = [
  'settling',
  'pending',
  'downloading',
  'uploaded',
  'notified',
  'failed',
  'skipped',
  'vanished'
] as const
export type FileStatus = (typeof FILE_STATUSES)[number]

export interface ObjectInfo {
  bucket: string
  key: string
  url: string
  etag: string
  size: number
  checksum: { algorithm: 'crc32' | 'sha256'; value: string }
  /** Of the whole file too where `checksum` is another one: a refetch is held against it before it writes. */
  crc32?: string
  storedAt: number
}

/** Multipart upload under way. `uploadId` is null while it is being created: the intent comes first. */
export interface UploadState {
  uploadId: string | null
  partBytes: number
  size: number
  mtime: number
  parts: { number: number; sizeBytes: number; etag: string; crc32: string }[]
}

export interface AnnouncementState {
  status: 'due' | 'sent'
  messageId: string
  attempts: number
  dueAt: number
  epoch: number
  leaseUntil: number
  at: number | null
  error: RecordedError | null
}

/** Times are ms since the epoch; `mtime` too, though SFTP knows seconds only. */
export interface FileRecord {
  _id: string
  revision: number
  serverId: string
  serverName: string
  path: string
  filename: string
  version: number
  /** On version 1: the highest version there is. */
  latest: number
  size: number
  mtime: number
  status: FileStatus
  /** Why it is `skipped`, or what a `settling` one waits for. */
  reason: string | null
  settle: SettleState | null
  seenEpoch: number
  attempts: number
  epoch: number
  worker: string | null
  leaseUntil: number
  /** When there is something to do next: the next look (settling), the next try (pending). */
  dueAt: number
  /** In which order pending files are claimed, see order.ts. */
  turn: string
  error: RecordedError | null
  /** Unique among all records; absent until the first claim. */
  reservedKey?: string
  upload: UploadState | null
  /** Parts that were finished when the present worker came: more of them by now mean that it got on. */
  partsAtClaim: number
  object: ObjectInfo | null
  announcement: AnnouncementState | null
  /** While a stored file is copied again: what it was before. */
  refetch: RefetchState | null
  afterUpload?: AfterUploadState | null
  /** The source was deleted or moved away by us, or found replaced: the next file of this name is a new version. */
  released: boolean
  progress: { bytes: number; bytesPerSecond: number } | null
  history: HistoryEntry[]
  historyDropped: number
  createdAt: number
  updatedAt: number
}

export const LEASE_MS = 30_000
export const RENEW_MS = 10_000
/** Skew allowed between the clocks of two `files` instances. */
export const SKEW_MS = 5_000
const SERVER_DELETED = 'server deleted'

/** What a scan or a look saw. `skip`: why the policy does not take it; `wait`: the marker that it waits for, in words. */
export interface Sighting {
  path: string
  size: number
  mtime: number
  skip: string | null
  wait?: string
}

export interface SightingRules {
  serverId: string
  serverName: string
  settle: SettlePolicy
  onChange: 'ignore' | 'version'
  scanEpoch: number
  /** Seconds; absent: none. */
  minAge?: number
  order?: Order
  /** Whether the source is to be deleted or moved once it is announced. */
  clears?: boolean
}

/** What `files` has to know of the server to take in what was seen there. */
export function rulesOf(server: { id: string; name: string; policy: ServerPolicy; scanEpoch: number }): SightingRules {
  const { id: serverId, name: serverName, scanEpoch } = server
  const { settle, minAge, order, onChange, afterUpload } = server.policy
  return { serverId, serverName, settle, minAge, order, clears: afterUpload !== 'keep', onChange, scanEpoch }
}

/** The identity of a version: 24 characters of a SHA-256, so that a registration is an idempotent insert. */
export function fileId(serverId: string, path: string, version: number): string {
  return createHash('sha256').update(`${serverId}\0${path}\0${version}`).digest('base64url').slice(0, 24)
}

export function isStored(file: FileRecord): boolean {
  return file.status === 'uploaded' || file.status === 'notified'
}

/**
 * Whether the same sighting that changes nothing now will change nothing later either: a scanner may remember it until
 * its server's `generation` moves. A file that is to be deleted or moved is not: its name is free then. Whatever takes a record out of this state but a sighting has to move it.
 */
export function isAtRest(file: FileRecord): boolean {
  return (
    (isStored(file) && !file.released && !file.afterUpload) ||
    (file.status === 'skipped' && file.reason !== SERVER_DELETED)
  )
}

function blank(rules: SightingRules, sighting: Sighting, version: number, now: number): FileRecord {
  return {
    _id: fileId(rules.serverId, sighting.path, version),
    revision: 0,
    serverId: rules.serverId,
    serverName: rules.serverName,
    path: sighting.path,
    filename: sighting.path.slice(sighting.path.lastIndexOf('/') + 1),
    version,
    latest: version,
    size: sighting.size,
    mtime: sighting.mtime,
    status: 'settling',
    reason: null,
    settle: null,
    seenEpoch: rules.scanEpoch,
    attempts: 0,
    epoch: 0,
    worker: null,
    leaseUntil: 0,
    dueAt: now,
    turn: '',
    error: null,
    upload: null,
    partsAtClaim: 0,
    object: null,
    announcement: null,
    refetch: null,
    released: false,
    progress: null,
    history: [],
    historyDropped: 0,
    createdAt: now,
    updatedAt: now
  }
}

/** A record that is not stored takes a sighting in: settles, is skipped, or becomes pending. */
function absorb(file: FileRecord, sighting: Sighting, rules: SightingRules, now: number): FileRecord {
  const changed = file.size !== sighting.size || file.mtime !== sighting.mtime
  const seen = { size: sighting.size, mtime: sighting.mtime, seenEpoch: rules.scanEpoch, serverName: rules.serverName }
  const ripe = ripen(sighting, file.status === 'settling' ? file : null, rules, now)
  if (ripe.kind === 'skipped') {
    return enter(file, { ...seen, status: 'skipped', reason: ripe.reason, settle: null }, now, ripe.reason)
  }
  const { settle } = ripe
  if (ripe.kind === 'taken') {
    const fresh = { attempts: 0, error: null, reason: null, worker: null, dueAt: now, settle }
    return enter(file, { ...seen, ...fresh, ...planned({ ...file, ...seen }, rules), status: 'pending' }, now, null)
  }
  const { reason, lookAt: dueAt } = ripe
  const change = { ...seen, status: 'settling' as const, settle, reason, worker: null, attempts: 0 }
  if (file.status === 'settling' && !changed && file.history.length > 0) {
    return { ...file, ...change, dueAt, updatedAt: now }
  }
  return enter(file, { ...change, dueAt }, now, changed && file.history.length > 0 ? 'the file changed' : null)
}

/** How a file that waits to be copied stands by the policy of today: its turn, and what comes after its upload. */
function planned(file: FileRecord, rules: SightingRules): Pick<FileRecord, 'turn' | 'afterUpload'> {
  const isRetried = file.status === 'pending' && file.turn.startsWith('!')
  return {
    turn: isRetried ? file.turn : firstTurn(rules.order ?? 'oldest', file),
    afterUpload: rules.clears ? (file.afterUpload ?? waitingForUpload) : null
  }
}

/** A pending file takes up a changed policy; null where nothing of it changes. */
function replanned(file: FileRecord, rules: SightingRules): FileRecord | null {
  const plan = planned(file, rules)
  if (plan.turn === file.turn && Boolean(plan.afterUpload) === Boolean(file.afterUpload)) return null
  return { ...file, ...plan }
}

export type Observation =
  | { kind: 'nothing' }
  | { kind: 'insert'; record: FileRecord }
  | { kind: 'replace'; record: FileRecord }

/** What a sighting makes of the latest record of its path (null: there is none). */
export function observe(file: FileRecord | null, sighting: Sighting, rules: SightingRules, now: number): Observation {
  if (!file) return { kind: 'insert', record: absorb(blank(rules, sighting, 1, now), sighting, rules, now) }
  // The worker holds the source against the record itself.
  if (isRefetching(file)) return { kind: 'nothing' }
  if (rules.scanEpoch < file.seenEpoch) return { kind: 'nothing' }
  const changed = file.size !== sighting.size || file.mtime !== sighting.mtime
  switch (file.status) {
    case 'settling':
      return { kind: 'replace', record: absorb(file, sighting, rules, now) }
    case 'downloading':
      // The worker looks at the source itself, before and after the copy.
      return { kind: 'nothing' }
    case 'uploaded':
    case 'notified':
      if (file.released || (changed && rules.onChange === 'version')) {
        const next = blank(rules, sighting, file.version + 1, now)
        return { kind: 'insert', record: absorb(next, sighting, rules, now) }
      }
      return { kind: 'nothing' }
    case 'pending':
      if (!changed && sighting.skip === null) {
        const record = replanned(file, rules)
        return record ? { kind: 'replace', record } : { kind: 'nothing' }
      }
      return { kind: 'replace', record: absorb(file, sighting, rules, now) }
    case 'failed':
      if (!changed) return { kind: 'nothing' }
      return { kind: 'replace', record: absorb(file, sighting, rules, now) }
    case 'skipped':
      if (!changed && sighting.skip === file.reason) return { kind: 'nothing' }
      return { kind: 'replace', record: absorb(file, sighting, rules, now) }
    case 'vanished':
      return { kind: 'replace', record: absorb(file, sighting, rules, now) }
  }
}

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
  return { ...file, upload: kept, leaseUntil: now + LEASE_MS, updatedAt: now }
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
        attempts: 0,
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
    case 'retry':
      return retryLater({ ...file, ...free }, outcome.error, now, random)
  }
}

function retryLater(file: FileRecord, error: RecordedError, now: number, random: number): FileRecord {
  if (file.attempts >= FILE_BACKOFF.maxAttempts) {
    if (isRefetching(file)) return backToStored(file, error, now)
    return enter(file, { status: 'failed', error }, now, error.message)
  }
  const dueAt = now + backoffMs(FILE_BACKOFF, file.attempts, random)
  return enter(file, { ...again({ dueAt }), status: 'pending', error }, now, error.message)
}

/** A later try has its turn when it is due. */
function again<T extends { dueAt: number }>(change: T): T & { turn: string } {
  return { ...change, turn: laterTurn(change.dueAt) }
}

/** A lease that ran out: the worker is lost. An attempt that had finished a part costs none. */
export function rescue(file: FileRecord, now: number, random: number): FileRecord | null {
  if (file.status !== 'downloading' || file.leaseUntil + SKEW_MS > now) return null
  const error = { type: 'WORKER_LOST', message: `the lease of ${file.worker} ran out`, at: now }
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
  const fresh = { attempts: 0, error: null, worker: null }
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
  if (isRefetching(file)) return backToStored(file, 'vanished', now)
  const free = { reason: null, settle: null, worker: null }
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

/** How the step ended; null when the worker no longer holds it. Never changes the file's state. */
export function endAfterUpload(
  file: FileRecord,
  epoch: number,
  outcome: AfterUploadOutcome,
  now: number,
  random: number
): FileRecord | null {
  if (file.afterUpload?.status !== 'due' || file.afterUpload.epoch !== epoch) return null
  const { state, released, why } = endStep(file.afterUpload, outcome, now, random)
  const next = { ...file, afterUpload: state, released: file.released || released, updatedAt: now }
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
