/** Paths on an SFTP server as people and programs name them: hostile until they are looked at. */
import { IngestError } from './errors.ts'

const MAX_BYTES = 4096

/** An absolute path without a slash at its end, but for the root itself. INVALID, naming the field `path`. */
export function normalPath(path: string): string {
  if (!path.startsWith('/')) refuse('must be absolute, such as /in/orders')
  if (path.includes('\0') || !path.isWellFormed()) refuse('must be Unicode text without NUL')
  if (Buffer.byteLength(path) > MAX_BYTES) refuse(`must have at most ${MAX_BYTES} bytes`)
  const normal = path.replace(/\/$/, '')
  const segments = normal.split('/').slice(1)
  const bad = segments.some((segment) => segment === '' || segment === '.' || segment === '..')
  return bad ? refuse('must have no empty segment, no "." and no ".."') : normal || '/'
}

function refuse(message: string): never {
  throw new IngestError('INVALID', `path: ${message}`, { data: { errors: [{ field: 'path', message }] } })
}
