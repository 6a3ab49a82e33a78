/**
 * What a scan would make of a path, and why, in words for an operator. The words are made from what the scan itself
 * decides: `machine.observe` says what would happen, nothing here decides anything.
 */
import { FILE_BACKOFF } from './backoff.ts'
import type { FileRecord, FileStatus } from './file-record.ts'
import { isRefetching } from './refetch.ts'
import type { Observation } from './sighting.ts'

export const VERDICTS = [
  /** A scan hands it on to be copied. */
  'taken',
  /** Will be taken, not yet: it may still grow, is too young, or lacks its marker. */
  'waits',
  /** There is a record, and a scan leaves it as it is. */
  'recorded',
  /** Gets a record that says why it is not copied. */
  'skipped',
  /** Gets no record. */
  'ignored',
  /** A name that cannot be used safely. */
  'quarantined',
  /** A folder that a scan goes into. */
  'folder',
  'unreadable',
  'missing',
  /** The server could not be asked. */
  'unknown'
] as const
export type Verdict = (typeof VERDICTS)[number]

/** What happens to a file that a listing shows. Times are ms since the epoch. */
export interface Why {
  verdict: Verdict
  why: string
  /** When it is looked at or tried again, where that is known. */
  nextAt: number | null
  /** Its latest record, as it is now. */
  file: { id: string; version: number; status: FileStatus } | null
}

export interface Explained extends Why {
  path: string
  size: number | null
  mtime: number | null
}

/** `file` is the latest record of the path (null: there is none), `seen` what a sighting makes of it. */
export function whyOf(file: FileRecord | null, seen: Observation, changed: boolean): Why {
  const known = file && { id: file._id, version: file.version, status: file.status }
  // A waiting file may get another turn by the policy of today; it waits all the same.
  const onlyWaits =
    file?.status === 'pending' && !changed && seen.kind === 'replace' && seen.record.status === 'pending'
  if (seen.kind === 'nothing' || onlyWaits) {
    const { why, nextAt } = recordedWhy(file!)
    const verdict = file!.status === 'skipped' ? 'skipped' : 'recorded'
    return { verdict, why: changed ? `${why}; ${changedWhy(file!)}` : why, nextAt, file: known }
  }
  const { record } = seen
  const begin = beginning(file, record, changed)
  switch (record.status) {
    case 'skipped':
      return { verdict: 'skipped', why: `${begin}${record.reason}`, nextAt: null, file: known }
    case 'pending':
      return { verdict: 'taken', why: `${begin}ready to be copied`, nextAt: null, file: known }
    default: {
      // A look of today only counts when it is a real one; what an unchanged file waits for stands in its record.
      const waits = file?.status === 'settling' && !changed ? file : record
      return { verdict: 'waits', why: `${begin}${waits.reason}`, nextAt: waits.dueAt, file: known }
    }
  }
}

function beginning(file: FileRecord | null, next: FileRecord, changed: boolean): string {
  if (!file) return 'new: '
  if (next.version > file.version) {
    const why = file.released ? `version ${file.version} was let go` : `changed since version ${file.version}`
    return `${why}: becomes version ${next.version}, `
  }
  if (file.status === 'settling') return changed ? 'changed since the last look: ' : 'settling: '
  if (file.status === 'vanished') return 'was gone and is back: '
  return changed ? `changed since it was ${file.status}: ` : `was ${file.status}, and the policy has changed: `
}

function changedWhy(file: FileRecord): string {
  if (file.status === 'downloading' || isRefetching(file)) return 'it has changed since, which its worker looks at'
  return 'it has changed since, and onChange is "ignore": POST /files/:id/refetch takes it as a new version'
}

/** What the record of a file says of it; `nextAt` as in `Why`. */
export function recordedWhy(file: FileRecord): { why: string; nextAt: number | null } {
  const { status, attempts, error, dueAt } = file
  const most = FILE_BACKOFF.maxAttempts
  const cause = error ? `: ${error.message}` : ''
  if (isRefetching(file)) return { why: `stored, and being fetched again (${status})${cause}`, nextAt: dueAt }
  switch (status) {
    case 'settling':
      return { why: `settling: ${file.reason}`, nextAt: dueAt }
    case 'pending':
      if (!error) return { why: 'recorded, waits for a worker', nextAt: null }
      return { why: `waits for attempt ${attempts + 1} of ${most}${cause}`, nextAt: dueAt }
    case 'downloading': {
      const bytes = file.progress ? `, ${file.progress.bytes} of ${file.size} bytes` : ''
      return { why: `is being copied by ${file.worker}, attempt ${attempts} of ${most}${bytes}`, nextAt: null }
    }
    case 'uploaded': {
      const late = file.announcement?.error ? `: ${file.announcement.error.message}` : ''
      return { why: `${storedWhy(file)}, not announced yet${late}`, nextAt: file.announcement?.dueAt ?? null }
    }
    case 'notified': {
      const announced = `${storedWhy(file)}, announced at ${iso(file.announcement?.at ?? null)}${cause}`
      return { why: announced + afterwardsWhy(file), nextAt: file.afterUpload?.dueAt ?? null }
    }
    case 'failed':
      return {
        why: `failed after attempt ${attempts} of ${most}${cause}; tried again when it changes or by hand`,
        nextAt: null
      }
    case 'skipped':
      return { why: file.reason ?? 'skipped', nextAt: null }
    case 'vanished':
      return { why: 'vanished: gone from the server before it was read', nextAt: null }
  }
}

/** What became of the source. */
function afterwardsWhy({ afterUpload }: FileRecord): string {
  const cause = afterUpload?.error ? `: ${afterUpload.error.message}` : ''
  switch (afterUpload?.status) {
    case 'due':
      return `, to be deleted or moved on the server${cause}`
    case 'done':
      return afterUpload.movedTo ? `, then moved to ${afterUpload.movedTo}` : ', then deleted from the server'
    case 'left':
      return ', then left alone: another file had its name'
    case 'failed':
      return `, and could not be deleted or moved on the server${cause}; POST /files/:id/retry tries again`
    default:
      return ''
  }
}

function storedWhy({ version, createdAt, object }: FileRecord): string {
  return `recorded as version ${version} at ${iso(createdAt)}, stored as ${object?.key} at ${iso(object?.storedAt ?? null)}`
}

function iso(at: number | null): string {
  return at === null ? 'an unknown time' : new Date(at).toISOString()
}
