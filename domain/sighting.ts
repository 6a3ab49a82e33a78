/**
 * What a listing or a look makes of the record of a path: a new record, another version, a file that settles, is skipped,
 * or may be copied. Pure, as the transitions in file.ts are.
 */
import { waitingForUpload } from './after-upload.ts'
import { type FileRecord, fileId, isStored, SERVER_DELETED, UNTRIED } from './file-record.ts'
import { enter } from './history.ts'
import { firstTurn, type Order } from './order.ts'
import { ripen, type Sighting } from './readiness.ts'
import { isRefetching } from './refetch.ts'
import type { ServerPolicy, SettlePolicy } from './server.ts'

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
  const seen = {
    size: sighting.size,
    mtime: sighting.mtime,
    seenEpoch: rules.scanEpoch,
    serverName: rules.serverName,
    leaseUntil: 0
  }
  const ripe = ripen(sighting, file.status === 'settling' ? file : null, rules, now)
  if (ripe.kind === 'skipped') {
    return enter(file, { ...seen, status: 'skipped', reason: ripe.reason, settle: null }, now, ripe.reason)
  }
  const { settle } = ripe
  if (ripe.kind === 'taken') {
    const fresh = { ...UNTRIED, error: null, reason: null, worker: null, dueAt: now, settle }
    return enter(file, { ...seen, ...fresh, ...planned({ ...file, ...seen }, rules), status: 'pending' }, now, null)
  }
  const { reason, lookAt: dueAt } = ripe
  const change = { ...seen, status: 'settling' as const, settle, reason, worker: null, ...UNTRIED }
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
