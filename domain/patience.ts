/** Which failed calls are worth repeating: the callee may be restarting, the network or the database away. */
const PASSING = new Set([
  'REQUEST_TIMEOUT',
  'SERVICE_NOT_FOUND',
  'SERVICE_NOT_AVAILABLE',
  'REQUEST_REJECTED',
  'REQUEST_SKIPPED',
  'NODE_DISCONNECTED',
  'DATABASE_UNAVAILABLE',
  'QUEUE_UNAVAILABLE'
])

/** `type` of Moleculer's errors and of ours; Moleculer's "not found" carries its type only in its name. */
export function isPassing(error: unknown): boolean {
  const { type, name } = (error ?? {}) as { type?: string; name?: string }
  return (
    PASSING.has(type ?? '') ||
    name === 'ServiceNotFoundError' ||
    name === 'ServiceNotAvailableError' ||
    name === 'RequestTimeoutError'
  )
}
