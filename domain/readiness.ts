/**
 * What the policy makes of a file, and why: the one place that says it, so that a scan, a look, a dry run and an
 * explanation never differ.
 *
 *   place, name    ignored    no record: outside the roots, our own, temporary, a marker, not included, excluded
 *   empty, size    skipped    a record that says why
 *   marker         marker     waits in `settling` for its marker
 *   age            age        waits in `settling` until it is old enough
 *   looks, time    settling   waits in `settling` until it was still for long enough
 *                  taken
 *
 * `sight` needs nothing but the listing; it is what a scanner asks, and sends on as a sighting. `ripen` holds a sighting
 * against what the record knows from earlier looks; it is what `files` asks. `judge` is both in a row.
 */

import { createFilter, OWN_PREFIX } from './filter.ts'
import { markerName, missingMarker } from './marker.ts'
import type { ServerPolicy, SettlePolicy } from './server.ts'
import { isSettled, look, nextLookAt, type SettleState } from './settle.ts'

/** A file as a listing or an lstat shows it; times are ms since the epoch. */
export interface Seen {
  path: string
  /** Below its root, without a leading slash. */
  relative: string
  size: number
  mtime: number
  /** mtime of its marker; null when there is none. Read only where the policy asks for markers. */
  markerMtime?: number | null
}

/** What a scan or a look saw. `skip`: why the policy does not take it; `wait`: the marker that it waits for, in words. */
export interface Sighting {
  path: string
  size: number
  mtime: number
  skip: string | null
  wait?: string
}

/** `ignored`: no record, and why. */
export type Sight = { kind: 'ignored'; reason: string } | { kind: 'seen'; sighting: Sighting }

export type Ripeness =
  | { kind: 'skipped'; reason: string }
  /** `lookAt`: when it may have changed; ms since the epoch. */
  | { kind: 'marker' | 'age' | 'settling'; reason: string; settle: SettleState; lookAt: number }
  | { kind: 'taken'; reason: string; settle: SettleState }

export type Verdict = { kind: 'ignored'; reason: string } | Ripeness

export type RipenessRules = { settle: SettlePolicy; minAge?: number }
/** What earlier looks know of a file that is settling. */
export type Known = { size: number; mtime: number; settle: SettleState | null } | null

export interface Readiness {
  /** By the listing alone. */
  sight(seen: Seen): Sight
  /** All of it; `known` is null for a file that has no record, or whose record is not settling. */
  judge(seen: Seen, known: Known, now: number): Verdict
}

export function createReadiness(policy: ServerPolicy): Readiness {
  const filter = createFilter(policy)
  const readiness: Readiness = {
    sight(seen) {
      const { path, relative, size, mtime } = seen
      const verdict = filter.file(relative, size)
      if (verdict.kind === 'ignored') return verdict
      const skip = verdict.kind === 'skipped' ? verdict.reason : null
      const wait = policy.marker
        ? missingMarker(policy.marker, nameOf(relative), mtime, seen.markerMtime ?? null)
        : null
      return { kind: 'seen', sighting: wait === null ? { path, size, mtime, skip } : { path, size, mtime, skip, wait } }
    },
    judge(seen, known, now) {
      const sight = readiness.sight(seen)
      return sight.kind === 'ignored' ? sight : ripen(sight.sighting, known, policy, now)
    }
  }
  return readiness
}

/** Whether a file may be taken now, and if not, what it waits for and when to look again. */
export function ripen(sighting: Sighting, known: Known, rules: RipenessRules, now: number): Ripeness {
  if (sighting.skip !== null) return { kind: 'skipped', reason: sighting.skip }
  const changed = known !== null && (known.size !== sighting.size || known.mtime !== sighting.mtime)
  const settle = look(known?.settle ?? null, changed, now)
  const settled = isSettled(settle, rules.settle, now)
  const oldAt = oldEnoughAt(sighting.mtime, settle, rules.minAge ?? 0)
  const lookAt = nextLook(settle, rules.settle, now, { settled, oldAt, waitsForMarker: Boolean(sighting.wait) })
  const still = settled ? null : stillness(settle, rules.settle, now)
  const young = oldAt > now ? `too young: minAge is ${rules.minAge} s, reached in ${inSeconds(oldAt - now)}` : null
  const reason = [sighting.wait ?? null, young, still].filter((one) => one !== null).join('; ')
  if (sighting.wait) return { kind: 'marker', reason, settle, lookAt }
  if (young) return { kind: 'age', reason, settle, lookAt }
  if (still) return { kind: 'settling', reason, settle, lookAt }
  return { kind: 'taken', reason: 'ready', settle }
}

/**
 * By the partner's clock or by ours, whichever comes first: a file that we saw unchanged for so long is old enough even
 * when its time lies in the future.
 */
function oldEnoughAt(mtime: number, settle: SettleState, minAgeSeconds: number): number {
  return minAgeSeconds === 0 ? 0 : Math.min(mtime, settle.since) + minAgeSeconds * 1000
}

const MIN_MARKER_POLL_MS = 5_000
const MAX_MARKER_POLL_MS = 10 * 60_000

/** Looks for a marker come less often the longer it does not come. */
function markerPollMs(waitedMs: number): number {
  return Math.min(MAX_MARKER_POLL_MS, Math.max(MIN_MARKER_POLL_MS, waitedMs / 2))
}

function nextLook(
  settle: SettleState,
  policy: SettlePolicy,
  now: number,
  waits: { settled: boolean; oldAt: number; waitsForMarker: boolean }
): number {
  const settleAt = waits.settled ? now : nextLookAt(settle, policy, now)
  // Looks that have to be counted are not put off; the last one may wait for the age.
  const isLast = waits.settled || settle.looks >= policy.checks - 1
  const lookAt = isLast ? Math.max(settleAt, waits.oldAt) : settleAt
  return waits.waitsForMarker ? Math.max(lookAt, now + markerPollMs(now - settle.since)) : lookAt
}

function stillness(settle: SettleState, policy: SettlePolicy, now: number): string {
  if (settle.looks < policy.checks) return `look ${settle.looks} of ${policy.checks}`
  return `look ${settle.looks}, unchanged for ${Math.floor((now - settle.since) / 1000)} of ${policy.seconds} s`
}

function inSeconds(ms: number): string {
  return `${Math.ceil(ms / 1000)} s`
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

/** The path of the marker that a file waits for; null where the policy asks for none. */
export function markerPath(policy: Pick<ServerPolicy, 'marker'>, path: string): string | null {
  if (!policy.marker) return null
  const slash = path.lastIndexOf('/') + 1
  return path.slice(0, slash) + markerName(policy.marker, path.slice(slash))
}

export type Place = { kind: 'inside'; root: string; relative: string } | { kind: 'ignored'; reason: string }

/** Whether scans come to a file's path at all. `roots` are the resolved ones. */
export function placeOf(policy: ServerPolicy, roots: string[], path: string): Place {
  const root = roots.find((one) => path.startsWith(asFolder(one)))
  if (root === undefined) return { kind: 'ignored', reason: 'outside the roots' }
  const relative = path.slice(asFolder(root).length)
  const folders = relative.split('/').slice(0, -1)
  if (folders.length > 0 && !policy.recursive)
    return { kind: 'ignored', reason: 'below the root, and recursive is off' }
  if (folders.length > policy.maxDepth) return { kind: 'ignored', reason: `deeper than maxDepth, ${policy.maxDepth}` }
  if (folders.some((name) => name.startsWith(OWN_PREFIX)))
    return { kind: 'ignored', reason: 'a working folder of Longshore' }
  if (isMovedInto(policy, roots, path))
    return { kind: 'ignored', reason: 'in a folder that afterUpload moves files into' }
  return { kind: 'inside', root, relative }
}

/** Whether a folder or file lies in a folder that files are or were moved into: no scan enters those, unless a root lies in one. */
export function isMovedInto(policy: Pick<ServerPolicy, 'movedInto'>, roots: string[], path: string): boolean {
  if (policy.movedInto.length === 0) return false
  const folders = policy.movedInto.flatMap((folder) =>
    folder.startsWith('/') ? [folder] : roots.map((root) => asFolder(root) + folder)
  )
  return folders.some((folder) => {
    const holdsRoot = roots.some((root) => asFolder(root).startsWith(asFolder(folder)))
    return !holdsRoot && asFolder(path).startsWith(asFolder(folder))
  })
}

function asFolder(path: string): string {
  return path.endsWith('/') ? path : `${path}/`
}
