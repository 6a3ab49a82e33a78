import type { FileStatus } from '../../domain/file-record.ts'

/** Which state may follow which; `null` is a record's beginning. */
export const follows: Record<FileStatus | 'null', FileStatus[]> = {
  null: ['settling', 'pending', 'skipped'],
  settling: ['settling', 'pending', 'skipped', 'vanished', 'failed'],
  // A stored file that is to be fetched again waits in `pending`, and is what it was where its source cannot be had.
  pending: ['pending', 'downloading', 'settling', 'skipped', 'vanished', 'failed', 'uploaded', 'notified'],
  downloading: ['uploaded', 'pending', 'settling', 'failed', 'vanished', 'skipped', 'notified'],
  uploaded: ['notified', 'pending'],
  notified: ['notified', 'pending'],
  failed: ['settling', 'pending', 'skipped'],
  skipped: ['settling', 'pending', 'skipped'],
  vanished: ['settling', 'pending', 'skipped']
}
