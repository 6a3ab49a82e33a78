/** Every change of a file's state leaves an entry in its record. */
import type { FileRecord, FileStatus, HistoryEntry } from './file-record.ts'

const MAX_HISTORY = 200

/** The record in another state, with the change in its history: repeats folded, the oldest dropped and counted. */
export function enter(
  file: FileRecord,
  change: Partial<FileRecord> & { status: FileStatus },
  now: number,
  why: string | null
): FileRecord {
  const next: FileRecord = { ...file, ...change, updatedAt: now }
  const last = file.history.at(-1)
  const entry: HistoryEntry = {
    // What comes after is not earlier, whatever the clock of its process says, or however long that stood still.
    at: Math.max(now, last?.at ?? now),
    status: next.status,
    worker: next.worker,
    attempt: next.attempts,
    reason: why,
    times: 1
  }
  const repeats = last && last.status === entry.status && last.worker === entry.worker && last.reason === entry.reason
  const history = repeats
    ? [...file.history.slice(0, -1), { ...entry, times: last.times + 1 }]
    : [...file.history, entry]
  next.history = history.slice(-MAX_HISTORY)
  next.historyDropped = file.historyDropped + history.length - next.history.length
  return next
}
