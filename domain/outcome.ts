/** What a thrown error makes of an attempt: the one place where errors become outcomes. */
import { blameOf, errorType, recordedError } from './errors.ts'
import type { Outcome } from './file.ts'

/** How long a file waits when its server or the store cannot be used; short, since it costs one look at an index. */
const STORE_WAIT_MS = 5_000
const SERVER_WAIT_MS = 10_000

/**
 * null: the worker no longer holds the file and has nothing to say about it.
 * `isExcused`: the attempt had finished a part, or had not begun, so that it is not counted.
 */
export function outcomeOf(error: unknown, now: number, isExcused = false): Outcome | null {
  const type = errorType(error)
  const recorded = recordedError(error, now)
  if (type === 'LEASE_LOST') return null
  if (type === 'SFTP_NO_SUCH_PATH') return { kind: 'vanished' }
  switch (blameOf(error)) {
    case 'server':
    case 'stop':
      return { kind: 'deferred', error: recorded, waitMs: SERVER_WAIT_MS }
    case 'store':
      return { kind: 'deferred', error: recorded, waitMs: STORE_WAIT_MS }
    case 'queue':
    case 'caller':
      return { kind: 'deferred', error: recorded, waitMs: 1_000 }
    case 'line':
      return isExcused ? { kind: 'deferred', error: recorded, waitMs: 1_000 } : { kind: 'lost', error: recorded }
    case 'file': {
      const isFinal = type === 'FILE_TOO_LARGE'
      if (isFinal) return { kind: 'rejected', error: recorded }
      return isExcused ? { kind: 'deferred', error: recorded, waitMs: 1_000 } : { kind: 'retry', error: recorded }
    }
  }
}
