/**
 * What a process that ended without a word still holds, where it is known to be dead: an embedded database belongs to one
 * process, so that every lease that is found in it at a start is a dead one's. Each thing becomes what it would be once
 * its lease had run out, only now; whoever takes it next has the next epoch, as after any other take-over.
 */
import type { FileRecord } from './file-record.ts'
import type { ServerRecord } from './server.ts'

/** A look at a settling file that was under way is due. */
export function freeLook(file: FileRecord, now: number): FileRecord | null {
  if (file.status !== 'settling' || file.leaseUntil === 0) return null
  return { ...file, leaseUntil: 0, dueAt: now }
}

/** A message that may or may not have been sent is due. */
export function freeAnnouncement(file: FileRecord, now: number): FileRecord | null {
  const { announcement } = file
  if (announcement?.status !== 'due' || announcement.leaseUntil === 0) return null
  return { ...file, announcement: { ...announcement, leaseUntil: 0, dueAt: now } }
}

/** A deletion or move that may or may not have been done is due. */
export function freeAfterUpload(file: FileRecord, now: number): FileRecord | null {
  if (file.afterUpload?.leaseUntil === undefined) return null
  const { leaseUntil: _, ...step } = file.afterUpload
  return { ...file, afterUpload: { ...step, dueAt: now } }
}

/** No connection is held and no scan runs; one that ran is due, unless its server has been told to wait meanwhile. */
export function freeServer(server: ServerRecord, now: number): ServerRecord | null {
  const { slots, scanLeaseUntil, nextScanAt } = server
  if (slots.length === 0 && scanLeaseUntil === 0) return null
  const free: ServerRecord = { ...server, slots: [], slotWantedUntil: 0 }
  if (scanLeaseUntil === 0) return free
  return { ...free, scanLeaseUntil: 0, lastScanner: null, nextScanAt: nextScanAt === scanLeaseUntil ? now : nextScanAt }
}
