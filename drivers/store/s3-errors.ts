import { XMLParser } from 'fast-xml-parser'
import { type ErrorType, IngestError } from '../../domain/errors.ts'

/** Answers of S3 as plain objects; every value a string. Whitespace is kept, since keys may begin with it. */
export const xml = new XMLParser({
  ignoreAttributes: true,
  parseTagValue: false,
  trimValues: false,
  isArray: (name) => name === 'Part' || name === 'Upload'
})

/** By S3's error code, where it says more than the status. */
const byCode: Record<string, ErrorType> = {
  NoSuchUpload: 'STORE_NO_SUCH_UPLOAD',
  NoSuchKey: 'STORE_NO_SUCH_OBJECT',
  // The bucket is the operator's to mend: no file is to blame, so copies wait.
  NoSuchBucket: 'STORE_UNAVAILABLE',
  BadDigest: 'CHECKSUM_MISMATCH',
  InvalidDigest: 'CHECKSUM_MISMATCH',
  XAmzContentChecksumMismatch: 'CHECKSUM_MISMATCH',
  XAmzContentSHA256Mismatch: 'CHECKSUM_MISMATCH',
  PreconditionFailed: 'STORE_PRECONDITION',
  ConditionalRequestConflict: 'STORE_PRECONDITION',
  OperationAborted: 'STORE_UNAVAILABLE',
  RequestTimeout: 'STORE_UNAVAILABLE',
  SlowDown: 'STORE_UNAVAILABLE',
  InternalError: 'STORE_UNAVAILABLE',
  ServiceUnavailable: 'STORE_UNAVAILABLE',
  XMinioStorageFull: 'STORE_FULL',
  XMinioAdminBucketQuotaExceeded: 'STORE_FULL',
  QuotaExceeded: 'STORE_FULL'
}

/** The error of an answer that is not a success. `body` is its XML, empty for HEAD. */
export function answerError(status: number, body: string, operation: string): IngestError {
  const { code, message } = parseError(body)
  const type = byCode[code] ?? byStatus(status)
  const said = code === '' ? `status ${status}` : `${code} (${status})${message === '' ? '' : `: ${message}`}`
  return new IngestError(type, `store: ${operation} failed: ${said}`, { data: { status, code } })
}

/** The error of a request that got no whole answer. */
export function connectionError(cause: unknown, operation: string): IngestError {
  const { code, message } = cause as { code?: string; message?: string }
  const said = message || code || String(cause)
  return new IngestError('STORE_UNAVAILABLE', `store: ${operation} failed: ${said}`, { data: { code }, cause })
}

function byStatus(status: number): ErrorType {
  if (status === 507) return 'STORE_FULL'
  if (status === 401 || status === 403) return 'STORE_DENIED'
  if (status === 412) return 'STORE_PRECONDITION'
  if (status >= 500 || status === 408 || status === 429) return 'STORE_UNAVAILABLE'
  return 'STORE_REJECTED'
}

/** Whatever is in front of the store (a proxy) may answer something that is no XML. */
function parseError(body: string): { code: string; message: string } {
  try {
    const error = xml.parse(body.trim()).Error
    return { code: error?.Code ?? '', message: error?.Message ?? '' }
  } catch {
    return { code: '', message: '' }
  }
}
