/**
 * Every error that Longshore reports, in one table. Drivers translate foreign errors to these once, at
 * their border; callers compare `err.type`, never `instanceof` (an error that crossed NATS lost its class).
 *
 * `blames` says whose failure it is, and so who waits:
 *   file    one file's attempt is used up
 *   line    the connection ended under a file, by the file's fault or not: no attempt is used up before many in a row
 *   server  the SFTP server cannot be used now: its files wait, no attempt is used up
 *   stop    the server is stopped until an operator mends it (so that accounts are not locked out)
 *   store   the object store: copies wait, no attempt is used up
 *   queue   the broker: announcements wait
 *   caller  a request of ours was wrong
 */
const table = {
  SFTP_UNREACHABLE: { code: 502, retryable: true, blames: 'server' },
  SFTP_TIMEOUT: { code: 504, retryable: true, blames: 'server' },
  SFTP_PROTOCOL: { code: 502, retryable: true, blames: 'server' },
  SFTP_TOO_MANY_SESSIONS: { code: 503, retryable: true, blames: 'server' },
  SFTP_CONNECTION_LOST: { code: 502, retryable: true, blames: 'line' },
  SFTP_AUTH_FAILED: { code: 502, retryable: false, blames: 'stop' },
  SFTP_HOST_KEY_MISMATCH: { code: 502, retryable: false, blames: 'stop' },
  SFTP_NO_SUCH_PATH: { code: 404, retryable: false, blames: 'file' },
  SFTP_PERMISSION_DENIED: { code: 403, retryable: true, blames: 'file' },
  SFTP_FAILURE: { code: 502, retryable: true, blames: 'file' },
  ROOT_UNREADABLE: { code: 502, retryable: true, blames: 'server' },
  ADDRESS_DENIED: { code: 422, retryable: false, blames: 'stop' },
  SOURCE_CHANGED: { code: 409, retryable: true, blames: 'file' },
  STALLED: { code: 504, retryable: true, blames: 'file' },
  CANCELLED: { code: 499, retryable: true, blames: 'caller' },
  LEASE_LOST: { code: 409, retryable: true, blames: 'caller' },
  STORE_UNAVAILABLE: { code: 503, retryable: true, blames: 'store' },
  STORE_FULL: { code: 507, retryable: true, blames: 'store' },
  STORE_DENIED: { code: 502, retryable: true, blames: 'store' },
  STORE_REJECTED: { code: 502, retryable: true, blames: 'file' },
  STORE_PRECONDITION: { code: 412, retryable: false, blames: 'file' },
  STORE_NO_SUCH_UPLOAD: { code: 404, retryable: true, blames: 'file' },
  STORE_NO_SUCH_OBJECT: { code: 404, retryable: false, blames: 'file' },
  CHECKSUM_MISMATCH: { code: 502, retryable: true, blames: 'file' },
  FILE_TOO_LARGE: { code: 413, retryable: false, blames: 'file' },
  QUEUE_UNAVAILABLE: { code: 503, retryable: true, blames: 'queue' },
  QUEUE_UNROUTABLE: { code: 503, retryable: true, blames: 'queue' },
  QUEUE_NACKED: { code: 503, retryable: true, blames: 'queue' },
  DATABASE_UNAVAILABLE: { code: 503, retryable: true, blames: 'caller' },
  SECRET_UNREADABLE: { code: 500, retryable: false, blames: 'stop' },
  WORKER_LOST: { code: 500, retryable: true, blames: 'file' },
  INVALID: { code: 422, retryable: false, blames: 'caller' },
  NOT_FOUND: { code: 404, retryable: false, blames: 'caller' },
  CONFLICT: { code: 409, retryable: false, blames: 'caller' },
  STALE_REVISION: { code: 412, retryable: false, blames: 'caller' },
  INTERNAL: { code: 500, retryable: true, blames: 'file' }
} as const satisfies Record<string, { code: number; retryable: boolean; blames: Blame }>

export type Blame = 'file' | 'line' | 'server' | 'stop' | 'store' | 'queue' | 'caller'
export type ErrorType = keyof typeof table

/** An error of the table. `code` is an HTTP status; `data` holds no secret; `cause` stays in this process. */
export class IngestError extends Error {
  readonly type: ErrorType
  readonly code: number
  readonly retryable: boolean
  readonly data: Record<string, unknown>

  constructor(type: ErrorType, message: string, options: { data?: Record<string, unknown>; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'IngestError'
    this.type = type
    this.code = table[type].code
    this.retryable = table[type].retryable
    this.data = options.data ?? {}
  }
}

/** The table's type of any thrown value; `INTERNAL` for one that is not of the table. */
export function errorType(error: unknown): ErrorType {
  const type = (error as { type?: unknown } | null)?.type
  return typeof type === 'string' && Object.hasOwn(table, type) ? (type as ErrorType) : 'INTERNAL'
}

/** Who has to wait for this error; see the head of this file. */
export function blameOf(error: unknown): Blame {
  return table[errorType(error)].blames
}

/** The form in which an error is kept in a record and shown: never a stack, never a secret. `at` is ms since the epoch. */
export interface RecordedError {
  type: string
  message: string
  at: number
}

export function recordedError(error: unknown, at: number): RecordedError {
  const message = error instanceof Error ? error.message : String(error)
  return { type: errorType(error), message: message.slice(0, 1000), at }
}
