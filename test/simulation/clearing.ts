/** What Longshore may do to a partner's files: after the announcement, to the recorded version, and to no other. */
import type { FileRecord } from '../../domain/file-record.ts'
import { OWN_PREFIX } from '../../domain/filter.ts'
import type { Partner } from './snapshot.ts'
import type { Inode } from './sources.ts'

const ASIDE = new RegExp(`^(.*/)${OWN_PREFIX.replaceAll('.', '\\.')}([^/]+)$`)

/** Answers what is wrong with renaming `path` to `to`, or deleting it where `to` is null; null when nothing is. */
export function wrongClearing(
  { policy, removed }: Partner,
  recordOf: (id: string) => FileRecord | undefined,
  wasAnnounced: (id: string) => boolean,
  [path, { size, mtimeSeconds }, to]: [string, Inode, string | null]
): string | null {
  if (policy.afterUpload === 'keep') return `${path} was touched, and its server keeps files`
  const setsAside = to === null ? null : ASIDE.exec(to)
  if (setsAside) return wasAnnounced(setsAside[2]!) ? null : `${path} was set aside before it was announced`
  const aside = ASIDE.exec(path)
  if (!aside) return `${path} was touched under its own name`
  const record = recordOf(aside[2]!)
  if (!record) return removed?.purge ? null : `${path} belongs to no record`
  const isRecorded = record.size === size && record.mtime === mtimeSeconds * 1000
  if (to === null)
    return isRecorded && policy.afterUpload === 'delete' ? null : `another version of ${record.path} was deleted`
  const isPutBack = to.startsWith(aside[1]!) && !to.slice(aside[1]!.length).includes('/')
  return isPutBack || isRecorded ? null : `another version of ${record.path} was moved to ${to}`
}
