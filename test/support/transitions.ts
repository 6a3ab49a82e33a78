import type { FileStatus } from '../../domain/file.ts'

/** Which state may follow which; `null` is a record's beginning. */
export const follows: Record<FileStatus | 'null', FileStatus[]> = {
  null: ['settling', 'pending', 'skipped'],
  settling: ['settling', 'pending', 'skipped', 'vanished', 'failed'],
  pending: ['pending', 'downloading', 'settling', 'skipped', 'vanished', 'failed'],
  downloading: ['uploaded', 'pending', 'settling', 'failed', 'vanished', 'skipped'],
  uploaded: ['notified'],
  notified: ['notified'],
  failed: ['settling', 'pending', 'skipped'],
  skipped: ['settling', 'pending', 'skipped'],
  vanished: ['settling', 'pending', 'skipped']
}
