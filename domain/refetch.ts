/**
 * A stored file is copied again because an operator asked for it:
 *
 *   uploaded, notified -> pending -> downloading -> uploaded     the same bytes again, under the same key
 *                                                -> as it was    they could not be had; the record says why
 *
 * One event id stands for one content. So the object is replaced only by bytes of the recorded version; a source that
 * holds others by now is left alone, and `released` lets the next scan take it as the next version, whatever
 * `onChange` says. The stored object and what was said of it stay until the new one is complete.
 */
import type { RecordedError } from './errors.ts'
import { type FileRecord, type RefetchState, UNTRIED } from './file-record.ts'
import { enter } from './history.ts'
import { laterTurn } from './order.ts'

export function isRefetching(file: FileRecord): file is FileRecord & { refetch: RefetchState } {
  return Boolean(file.refetch)
}

/** null for a file that is not stored, or whose source is no longer this version's. */
export function refetch(file: FileRecord, now: number): FileRecord | null {
  const { status, announcement } = file
  if ((status !== 'uploaded' && status !== 'notified') || !announcement || file.released) return null
  const kept = { refetch: { status, announcement, epoch: file.epoch }, announcement: null }
  const fresh = { ...UNTRIED, error: null, worker: null, upload: null, dueAt: now, turn: laterTurn(now) }
  return enter(file, { ...kept, ...fresh, status: 'pending' }, now, 'to be fetched again, asked for by an operator')
}

/** The record as it was before it was asked for again, with the reason as its `error`. */
export function backToStored(
  file: FileRecord & { refetch: RefetchState },
  why: 'changed' | 'vanished' | RecordedError,
  now: number
): FileRecord {
  const error = typeof why === 'string' ? { ...reasons[why], at: now } : why
  const { status, announcement } = file.refetch
  // The next epoch: a notifier that had it before the refetch no longer answers for it.
  const due = { ...announcement, epoch: announcement.epoch + 1, dueAt: now, leaseUntil: 0 }
  const back = { status, announcement: announcement.status === 'due' ? due : announcement, refetch: null }
  const freed = { leaseUntil: 0, progress: null, upload: null, worker: null }
  const released = file.released || why === 'changed'
  return enter(file, { ...back, ...freed, released, error }, now, `not fetched again: ${error.message}`)
}

/** Whether this step ended a refetch that replaced nothing. */
export function hasGivenUp(before: FileRecord, after: FileRecord): boolean {
  return isRefetching(before) && !isRefetching(after) && after.object === before.object
}

const reasons = {
  changed: {
    type: 'SOURCE_CHANGED',
    message: 'the server holds another content now; the next scan takes it as a new version'
  },
  vanished: {
    type: 'SFTP_NO_SUCH_PATH',
    message: 'the source is gone from the server; the stored object was left as it is'
  }
}
