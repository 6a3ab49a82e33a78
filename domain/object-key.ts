/**
 * The key of a file's object: by default `{server}/{path}`. Whatever a server lists, the key stays below its prefix,
 * and by the default template two files never share one: escaping is one to one, and what is cut ends in a hash of the
 * whole name. One pair does: version 1 of `a@2` and version 2 of `a`. Another template may make more such pairs. The
 * unique index on reserved keys tells, and the later takes `~<id>`.
 */
import { createHash } from 'node:crypto'
import { DEFAULT_KEY_TEMPLATE, fillTemplate, type KeyFile } from './key-template.ts'

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
  // Stores fold or refuse empty segments; a slash within a segment cannot come from a name.
  if (segment === '') return '%2F'
  const escaped = escapeCharacters(segment)
  if (!/^[.\s]*$/.test(segment)) return escaped
  return escaped.replace(/[.\s]/g, (character) => (character === '.' ? '%2E' : encodeURIComponent(character)))
}

/** At most `maxBytes` of the text, cut at a character border and never within an escape. */
function head(text: string, maxBytes: number): string {
  if (Buffer.byteLength(text) <= maxBytes) return text
  const bytes = Buffer.from(text).subarray(0, maxBytes).toString('utf8')
  return bytes.replace(/\uFFFD+$/, '').replace(/%.?$/, '')
}

/** As it is, or cut so that it ends in a hash of the whole: two long names stay two. No segment is made too long. */
function cut(text: string, maxBytes: number, whole: string): string {
  if (Buffer.byteLength(text) <= maxBytes) return text
  return withEnding(head(text, maxBytes - HASH_DIGITS - 1), `~${hashOf(whole)}`)
}

function hashOf(whole: string): string {
  return createHash('sha256').update(whole).digest('hex').slice(0, HASH_DIGITS)
}

/** The last segment gives way to the ending where both would be too long. */
function withEnding(text: string, ending: string): string {
  const start = text.lastIndexOf('/') + 1
  return text.slice(0, start) + head(text.slice(start), MAX_SEGMENT_BYTES - Buffer.byteLength(ending)) + ending
}

/** Versions after the first get `@{version}`, unless the template says the version itself. */
export function objectKey(file: KeyFile, template = DEFAULT_KEY_TEMPLATE): string {
  const { segments, saysVersion } = fillTemplate(template, file)
  const suffix = file.version > 1 && !saysVersion ? `@${file.version}` : ''
  const last = segments.length - 1
  const escaped = segments.map((segment, index) => {
    const ending = index === last ? suffix : ''
    return cut(escapeSegment(segment) + ending, MAX_SEGMENT_BYTES, segment + ending)
  })
  return cut(escaped.join('/'), MAX_KEY_BYTES, `${segments.join('/')}${suffix}`)
}

/** The key for a file whose own is taken by another one; never the same key again. */
export function alternativeKey(key: string, fileId: string): string {
  const plain = `${key}~${fileId}`
  const segment = plain.slice(plain.lastIndexOf('/') + 1)
  if (Buffer.byteLength(plain) <= MAX_KEY_BYTES && Buffer.byteLength(segment) <= MAX_SEGMENT_BYTES) return plain
  const ending = `~${hashOf(key)}~${fileId}`
  return withEnding(head(key, MAX_KEY_BYTES - Buffer.byteLength(ending)), ending)
}
