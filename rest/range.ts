/** Which bytes of a stored object a request asks for (RFC 9110, section 14). */
import parseRange from 'range-parser'
import type { ByteRange } from '../drivers/store/store.ts'

export interface WantedBytes {
  range?: string
  /** The range is meant for this version only: its ETag, with quotes. */
  ifRange?: string
  ifNoneMatch?: string
}

export type BytesAnswer =
  | { status: 200; range: undefined }
  | { status: 206; range: ByteRange }
  | { status: 304 }
  | { status: 416 }

/** Several ranges in one request, and units that are not bytes, are answered with the whole object, as the RFC permits. */
export function bytesAnswer(wanted: WantedBytes, sizeBytes: number, etag: string): BytesAnswer {
  if (matches(wanted.ifNoneMatch, etag)) return { status: 304 }
  const whole = { status: 200, range: undefined } as const
  if (wanted.range === undefined || sizeBytes === 0) return whole
  if (wanted.ifRange !== undefined && wanted.ifRange !== etag) return whole
  const ranges = parseRange(sizeBytes, wanted.range, { combine: true })
  if (ranges === -1) return { status: 416 }
  if (ranges === -2 || ranges.type !== 'bytes' || ranges.length !== 1) return whole
  return { status: 206, range: { start: ranges[0]!.start, end: ranges[0]!.end } }
}

function matches(ifNoneMatch: string | undefined, etag: string): boolean {
  const tags = ifNoneMatch?.split(',').map((tag) => tag.trim().replace(/^W\//, '')) ?? []
  return tags.includes(etag) || tags.includes('*')
}
