/** A registered SFTP server: its address, sealed credentials, policy, schedule and connection slots. */
import type { Algorithms } from './algorithms.ts'
import type { RecordedError } from './errors.ts'
import type { MarkerPolicy } from './marker.ts'
import type { Order } from './order.ts'
import { DEFAULT_INTERVAL_SECONDS, DEFAULT_TIMEZONE, nextTick, retryTick, type Schedule } from './schedule.ts'
import type { SealedSecret } from './sealed.ts'

export type ServerState = 'active' | 'paused' | 'stopped'

/** Equal size and mtime over `checks` looks and `seconds`; 1 and 0 take a file at once. */
export interface SettlePolicy {
  checks: number
  seconds: number
}

/** What becomes of a file on the server once it is announced. `move`: a folder, absolute or below the file's root. */
export type AfterUploadPolicy = 'keep' | 'delete' | { move: string }

/** What an operator sets. Everything but the schedule is about which files are taken and how. */
export interface ServerPolicy {
  roots: string[]
  recursive: boolean
  maxDepth: number
  symlinks: 'skip' | 'follow'
  include: string[]
  exclude: string[]
  tempPatterns: string[]
  settle: SettlePolicy
  /** Seconds since the file was last changed. */
  minAge: number
  marker: MarkerPolicy | null
  emptyFiles: 'take' | 'skip'
  /** Bytes; null: no limit but the store's. */
  maxSize: number | null
  onChange: 'ignore' | 'version'
  checksum: 'crc32' | 'sha256'
  /** Bytes a second that are read from the server, over all workers; null: no limit. */
  bandwidth: number | null
  /** The form of its object keys, see key-template.ts. */
  keyTemplate: string
  order: Order
  afterUpload: AfterUploadPolicy
  /** Folders that `afterUpload` moves files into, those of earlier policies too: never scanned. */
  movedInto: string[]
}

export interface ServerAddress {
  host: string
  port: number
  username: string
  /** "SHA256:…"; null until the first connection pins the key that it sees. */
  hostKey: string | null
  /** For a server that does not know modern ones; null: modern ones only. */
  algorithms: Algorithms | null
}

export type SecretField = 'password' | 'privateKey' | 'passphrase'

/** `look`: a second look at settling files, between scans; `post`: what becomes of sources after their upload. */
export const SLOT_KINDS = ['scan', 'look', 'transfer', 'post', 'test'] as const
export type SlotKind = (typeof SLOT_KINDS)[number]

/** A lease on one of the server's `maxConnections`. Times are ms since the epoch, by the clock of `servers`. */
export interface Slot {
  id: string
  holder: string
  kind: SlotKind
  /** When it was taken; absent in a slot that an older version wrote. */
  at?: number
  until: number
}

export interface ScanSummary {
  startedAt: number
  listed: number
  new: number
  settling: number
  pending: number
  skipped: number
  quarantined: number
  durationMs: number
  complete: boolean
}

export interface ServerRecord extends ServerAddress, ServerPolicy, Schedule {
  _id: string
  revision: number
  name: string
  secrets: Partial<Record<SecretField, SealedSecret>>
  /** Counted up by operators' changes only, unlike `revision`: what If-Match is held against. */
  edition: number
  /** Servers of a higher one are drained first; equal ones take turns. */
  priority: number
  maxConnections: number
  enabled: boolean
  state: ServerState
  lastError: RecordedError | null
  /** Failed scans in a row; sets the back-off. */
  failures: number
  /** While it is being scanned: when the scan would be lost. */
  nextScanAt: number
  /** While it is being scanned: when the next scan is due by its schedule. */
  nextTickAt: number
  /** Counted up by every claim of a scan; what an older scan reports is ignored. */
  scanEpoch: number
  scanLeaseUntil: number
  /** Who claimed the last scan: it may know what nothing has to be asked about. */
  lastScanner: string | null
  /**
   * Moved by everything but a sighting that may change what a known file asks for: a policy, a record that was opened
   * again or removed by hand. What a scanner remembers of another generation is void.
   */
  generation: number
  lastScanAt: number | null
  lastScan: ScanSummary | null
  slots: Slot[]
  /** Until when somebody other than the holders waits for a slot. */
  slotWantedUntil: number
  /** A removed server: secrets gone, kept so that late reports find out. */
  deletedAt: number | null
  /** There only while something of a removed server may be left to clear away. */
  removal?: Removal
  createdAt: number
  updatedAt: number
}

export const SCAN_LEASE_MS = 30_000
/** After this a scan is tried again that ended by no fault of its server. */
export const SCAN_AGAIN_MS = 10_000
/** How long a due scan is kept for the scanner that knows the server. */
export const AFFINITY_MS = 2_000
export const SLOT_LEASE_MS = 30_000

/** Active, not being scanned, and its time has come. Missed ticks are not made up: one scan serves them all. */
export function isScanDue(server: ServerRecord, now: number): boolean {
  return server.state === 'active' && !server.deletedAt && server.nextScanAt <= now && server.scanLeaseUntil <= now
}

/**
 * A scan taken by one scanner: the next epoch, a lease, the next tick already set and, where one is free, its connection;
 * where none is, the scan has to wait for one. A scan that is lost with its scanner is due when its lease ends, not only
 * at the next tick. `random` is in [0, 1).
 */
export function claimScan(server: ServerRecord, slot: Omit<Slot, 'until'>, now: number, random: number): ServerRecord {
  const claimed: ServerRecord = {
    ...server,
    scanEpoch: server.scanEpoch + 1,
    scanLeaseUntil: now + SCAN_LEASE_MS,
    nextScanAt: now + SCAN_LEASE_MS,
    nextTickAt: nextTick(server, now, random),
    lastScanner: slot.holder
  }
  return takeSlot(claimed, slot, now) ?? wantSlot(claimed, slot.kind, now) ?? claimed
}

/** Keeps the scan and its connection; null when the scan was taken over, or the server paused or removed. */
export function renewScan(server: ServerRecord, scanEpoch: number, slotId: string | null, now: number) {
  if (server.scanEpoch !== scanEpoch || server.state !== 'active') return null
  const kept = (slotId && renewSlot(server, slotId, now)) || server
  return { ...kept, scanLeaseUntil: now + SCAN_LEASE_MS, nextScanAt: now + SCAN_LEASE_MS }
}

/** A scan that its scanner gave up: another one may begin at `dueAt`. null when it is not this scan any more. */
export function giveScanBack(server: ServerRecord, scanEpoch: number, dueAt: number): ServerRecord | null {
  return server.scanEpoch === scanEpoch ? { ...server, scanLeaseUntil: 0, nextScanAt: dueAt } : null
}

/** What scanners remember of its files is void. */
export function moveGeneration(server: ServerRecord): ServerRecord {
  return { ...server, generation: server.generation + 1 }
}

/** After a scan that listed something. */
export function scanSucceeded(server: ServerRecord, summary: ScanSummary, problem: RecordedError | null, now: number) {
  const next: ServerRecord = { ...server, failures: 0, lastError: problem, lastScan: summary, lastScanAt: now }
  return { ...next, nextScanAt: server.nextTickAt, scanLeaseUntil: 0, updatedAt: now }
}

/**
 * After a connection or scan failed: back off up to a cap, or stop when going on could lock the account out.
 * `ended`: it was the scan that failed, and not another connection beside it.
 */
export function serverFailed(
  server: ServerRecord,
  error: RecordedError,
  stop: boolean,
  now: number,
  { ended = true, random = 1 }: { ended?: boolean; random?: number } = {}
): ServerRecord {
  const failures = server.failures + 1
  return {
    ...server,
    failures,
    lastError: error,
    state: stop ? 'stopped' : server.state,
    nextScanAt: retryTick(failures, now, random),
    scanLeaseUntil: ended ? 0 : server.scanLeaseUntil,
    updatedAt: now
  }
}

const MAX_LOGINS_AT_ONCE = 3
/** By then a login has been taken or refused. */
const LOGIN_MS = 10_000

/**
 * Connections that may be used for copying. One of several is left free, so that a scan or a test
 * never waits behind a long copy; where there is only one, a waiting scan makes the copy yield.
 */
function hasFreeSlot(held: Slot[], kind: Slot['kind'], maxConnections: number, now: number): boolean {
  if (held.length >= maxConnections) return false
  // Credentials that are refused from one moment to the next are seen by no more logins than this.
  if (held.filter(({ at = 0 }) => now - at < LOGIN_MS).length >= MAX_LOGINS_AT_ONCE) return false
  if (kind !== 'transfer') return true
  return held.filter((slot) => slot.kind === 'transfer').length < Math.max(1, maxConnections - 1)
}

/** Takes a slot; null when all are held. Expired slots are dropped. */
export function takeSlot(server: ServerRecord, slot: Omit<Slot, 'at' | 'until'>, now: number): ServerRecord | null {
  const slots = server.slots.filter((held) => held.until > now)
  if (!hasFreeSlot(slots, slot.kind, server.maxConnections, now)) return null
  // Whoever else waits asks again, and copies yield again.
  const slotWantedUntil = slot.kind === 'transfer' ? server.slotWantedUntil : 0
  return { ...server, slotWantedUntil, slots: [...slots, { ...slot, at: now, until: now + SLOT_LEASE_MS }] }
}

/**
 * What one holder of a copying slot may read a second, null without a limit: its share of `bandwidth` among those that
 * hold one now.
 */
export function bandwidthShare(server: ServerRecord, now: number): number | null {
  if (!server.bandwidth) return null
  const sharers = server.slots.filter((slot) => slot.kind === 'transfer' && slot.until > now).length
  return server.bandwidth / Math.max(1, sharers)
}

export function releaseSlot(server: ServerRecord, slotId: string): ServerRecord {
  return { ...server, slots: server.slots.filter((held) => held.id !== slotId) }
}

/** Renews a slot that is still there; null when it was lost. */
export function renewSlot(server: ServerRecord, slotId: string, now: number): ServerRecord | null {
  if (server.deletedAt || !server.slots.some((held) => held.id === slotId)) return null
  const slots = server.slots.map((held) => (held.id === slotId ? { ...held, until: now + SLOT_LEASE_MS } : held))
  return { ...server, slots }
}

/** Renews the slot of a connection that was kept after its work; null where a new one would not be given either. */
export function keepSlot(server: ServerRecord, slotId: string, now: number): ServerRecord | null {
  if (server.state !== 'active' || server.failures > 0 || server.slotWantedUntil > now) return null
  return renewSlot(server, slotId, now)
}

/** What follows the removal of a server, in passes that whoever is there makes: no crash loses it. */
export interface Removal {
  /** Whether objects and records are removed too. */
  purge: boolean
  /** Passes that were made. */
  passes: number
  /** Of the next one. */
  dueAt: number
}

/**
 * At once; again when no worker can hold anything of it any more, whatever it was doing; and once more for a report that
 * came even later from a process that had stood still.
 */
const REMOVAL_PASSES_MS = [0, 45_000, 10 * 60_000]

/** After a pass: when the next one is due, or that it was the last. */
export function removalPassed(server: ServerRecord, passes: number): ServerRecord | null {
  const { removal, ...rest } = server
  if (removal?.passes !== passes || server.deletedAt === null) return null
  const afterMs = REMOVAL_PASSES_MS[passes + 1]
  if (afterMs === undefined) return rest
  return { ...rest, removal: { ...removal, passes: passes + 1, dueAt: server.deletedAt + afterMs } }
}

/** A removed server: nothing of it runs on, its secrets are gone, its name is free again. */
export function tombstone(server: ServerRecord, now: number, purge = false): ServerRecord {
  return {
    ...server,
    name: `${server.name} (deleted ${server._id})`,
    deletedAt: now,
    removal: { purge, passes: 0, dueAt: now },
    state: 'stopped',
    secrets: {},
    slots: [],
    scanEpoch: server.scanEpoch + 1,
    updatedAt: now
  }
}

const POLICY_FIELDS = [
  'roots',
  'recursive',
  'maxDepth',
  'symlinks',
  'include',
  'exclude',
  'tempPatterns',
  'settle',
  'minAge',
  'marker',
  'emptyFiles',
  'maxSize',
  'onChange',
  'checksum',
  'bandwidth',
  'keyTemplate',
  'order',
  'afterUpload',
  'movedInto'
] as const satisfies (keyof ServerPolicy)[]

/** What a record says that was written before these fields were there. */
const LATER_FIELDS: Partial<ServerPolicy> = {
  minAge: 0,
  marker: null,
  order: 'oldest',
  afterUpload: 'keep',
  movedInto: []
}

export function policyOf(server: ServerRecord): ServerPolicy {
  const values = POLICY_FIELDS.map((field) => [field, server[field] ?? LATER_FIELDS[field]])
  return Object.fromEntries(values) as unknown as ServerPolicy
}

/** Why a slot is not given now; empty when it may be taken. */
export function refusalOf(server: ServerRecord, kind: Slot['kind'], now: number): string {
  if (server.deletedAt) return 'the server was removed'
  // A stopped server is never logged in to by itself: that could lock the account out. A failing one is tried by scans
  // alone, so that workers do not spend their time on connecting to it.
  const byItself = kind !== 'scan' && kind !== 'test'
  if (kind !== 'test' && server.state !== 'active') return `the server is ${server.state}`
  if (byItself && server.failures > 0) return 'the server fails and is left alone'
  if (kind === 'transfer' && server.slotWantedUntil > now && server.maxConnections === 1) return A_SCAN_WAITS
  const held = server.slots.filter((slot) => slot.until > now)
  return hasFreeSlot(held, kind, server.maxConnections, now) ? '' : ALL_IN_USE
}

const A_SCAN_WAITS = 'a scan waits'
const ALL_IN_USE = 'all connections of the server are in use'

/** Whether a refusal is about connections that others hold, and maybe only keep. */
export function isInUse(refusal: string): boolean {
  return refusal === A_SCAN_WAITS || refusal === ALL_IN_USE
}

const WANT_MS = 5_000

/**
 * Something other than a copy waits: holders see it when they renew, and yield at the next file. Where there are several
 * connections one is always free of copies, so that only a scan or a test, for which somebody waits, makes one yield.
 */
export function wantSlot(server: ServerRecord, kind: SlotKind, now: number): ServerRecord | null {
  const canWait = kind !== 'scan' && kind !== 'test' && server.maxConnections > 1
  if (kind === 'transfer' || canWait) return null
  return { ...server, slotWantedUntil: now + WANT_MS }
}

export function pause(server: ServerRecord, now: number): ServerRecord {
  return { ...server, edition: server.edition + 1, state: 'paused', enabled: false, updatedAt: now }
}

/** A pause is not made up for: a cron server waits for its next tick. One that failed or was stopped is tried at once. */
export function resume(server: ServerRecord, now: number, random = 0): ServerRecord {
  const atOnce = server.cron === null || server.state === 'stopped' || server.failures > 0
  const nextScanAt = atOnce ? now : nextTick(server, now, random)
  const fresh = { failures: 0, lastError: null, nextScanAt, nextTickAt: nextScanAt, updatedAt: now }
  return { ...server, ...fresh, edition: server.edition + 1, state: 'active', enabled: true }
}

/** An operator's change. A new address or secret gives a stopped server another try. */
export function updateServer(
  server: ServerRecord,
  input: Partial<ServerRecord>,
  secrets: ServerRecord['secrets'],
  now: number,
  random = 0
): ServerRecord {
  const schedule = changedSchedule(server, input)
  const policy = { ...input, ...schedule, movedInto: movedInto(server, input.afterUpload) }
  const next = { ...moveGeneration(server), ...policy, secrets: { ...server.secrets, ...secrets }, updatedAt: now }
  if (secrets.password) delete next.secrets.privateKey
  if (secrets.privateKey) delete next.secrets.password
  if (input.enabled === false) return pause(next, now)
  const moved = ['host', 'port', 'username', 'hostKey', 'algorithms', 'roots'].some((field) => field in input)
  if (input.enabled === true || moved || Object.keys(secrets).length > 0) {
    const wasPaused = server.state === 'paused' && input.enabled !== true
    return wasPaused ? { ...next, edition: server.edition + 1 } : resume(next, now, random)
  }
  const tick = nextTick(next, now, random)
  const isSooner = (next.cron === null && server.cron === null) || server.failures > 0
  const nextTickAt = isSooner ? Math.min(server.nextTickAt, tick) : tick
  const isBeingScanned = server.scanLeaseUntil > now
  const nextScanAt = isBeingScanned ? server.nextScanAt : isSooner ? Math.min(server.nextScanAt, tick) : tick
  return { ...next, edition: server.edition + 1, nextScanAt, nextTickAt }
}

/** An interval takes a cron expression's place and the other way round; a time zone alone changes that of the expression. */
export function changedSchedule(server: Schedule, input: Partial<Schedule>): Schedule {
  const { cron, timezone, interval } = input
  const stays = typeof interval !== 'number' && cron !== null ? server.cron : null
  const expression = cron ?? stays
  if (!expression)
    return { interval: interval ?? server.interval ?? DEFAULT_INTERVAL_SECONDS, cron: null, timezone: null }
  return { interval: null, cron: expression, timezone: timezone ?? server.timezone ?? DEFAULT_TIMEZONE }
}

const MAX_MOVED_INTO = 50

/** What was moved there once must not come back as new when the policy changes. */
export function movedInto(server: { movedInto?: string[] }, policy: AfterUploadPolicy | undefined): string[] {
  const known = server.movedInto ?? []
  if (typeof policy !== 'object' || known.includes(policy.move)) return known
  return [...known, policy.move].slice(-MAX_MOVED_INTO)
}
