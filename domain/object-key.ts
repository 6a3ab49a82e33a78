/**
 * The key of a file's object: `{server}/{path}`. Whatever a server lists, the key stays below the server's prefix,
 * and two files never share one: escaping is one to one, and what is cut ends in a hash of the whole name.
 */
import { createHash } from 'node:crypto'

const MAX_KEY_BYTES = 1024
const MAX_SEGMENT_BYTES = 255
const HASH_DIGITS = 32

/** Percent-escapes what S3 servers and file systems read as structure: `%` itself, backslash, control characters. */
function escapeCharacters(segment: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are real in file names and must be escaped
  return segment.replace(/[%\\\u0000-\u001f\u007f]/g, (character) => encodeURIComponent(character))
}

/** Segments of dots alone, or that trim to them, would climb or vanish on some stores: their dots are escaped. */
function escapeSegment(segment: string): string {
  const escaped = escapeCharacters(segment)
  return /^[.\s]*$/.test(segment) ? escaped.replaceAll('.', '%2E').replaceAll(' ', '%20') : escaped
}

/** Cuts at a character border and ends in a hash of the whole, so that two long names stay two. */
function cut(text: string, maxBytes: number, whole: string): string {
  if (Buffer.byteLength(text) <= maxBytes) return text
  const hash = createHash('sha256').update(whole).digest('hex').slice(0, HASH_DIGITS)
  let head = Buffer.from(text)
    .subarray(0, maxBytes - HASH_DIGITS - 1)
    .toString('utf8')
    .replace(/\uFFFD+$/, '')
  head = head.replace(/%.?$/, '')
  return `${head}~${hash}`
}

/** `path` is absolute on the server; versions after the first get `@{version}`. */
export function objectKey(file: { serverName: string; path: string; version: number }): string {
  const suffix = file.version > 1 ? `@${file.version}` : ''
  const segments = file.path.replace(/^\/+/, '').split('/')
  const last = segments.length - 1
  const escaped = segments.map((segment, index) =>
    cut(escapeSegment(segment) + (index === last ? suffix : ''), MAX_SEGMENT_BYTES, `${segment}${suffix}`)
  )
  const prefix = `${file.serverName}/`
  return prefix + cut(escaped.join('/'), MAX_KEY_BYTES - Buffer.byteLength(prefix), `${file.path}${suffix}`)
}

/** The key for a file whose own is taken by another one. */
export function alternativeKey(key: string, fileId: string): string {
  return `${cut(key, MAX_KEY_BYTES - fileId.length - 1, key)}~${fileId}`
}
