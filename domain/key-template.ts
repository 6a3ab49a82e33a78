/**
 * The form of a server's object keys: text with fields in braces, such as `incoming/{server}/{yyyy}/{filename}`.
 *
 * What a server chooses (names, folders) stands only behind a first segment that it does not choose, so that no name
 * reaches out of the prefix. Here a template is read and filled in; object-key.ts escapes what comes out.
 */
export const DEFAULT_KEY_TEMPLATE = '{server}/{path}'

export const KEY_FIELDS = [
  ...['server', 'serverId', 'path', 'dir', 'filename', 'stem', 'ext'],
  ...['yyyy', 'mm', 'dd', 'mtime', 'version']
] as const

/** Chosen by the server. */
const NAME_FIELDS = ['path', 'dir', 'filename', 'stem', 'ext']
/** One of these has to be there: without them all files of a server would want one key. */
const TELLING_FIELDS = ['path', 'filename', 'stem']
const MAX_TEMPLATE_LENGTH = 256

export interface KeyFile {
  serverName: string
  serverId: string
  /** Absolute on the server. */
  path: string
  version: number
  /** Ms since the epoch. */
  mtime: number
}

type Token = { text: string } | { field: string }
/** The tokens of each segment. */
type Template = Token[][]

/** Why a template cannot be used; null when it can. The text goes on from "keyTemplate". */
export function templateFault(template: string): string | null {
  if (template.length > MAX_TEMPLATE_LENGTH) return `must have at most ${MAX_TEMPLATE_LENGTH} characters`
  const known = KEY_FIELDS.join(', ')
  const rest = template.replace(/\{([^{}]*)\}/g, (whole, name) => (isField(name) ? '' : whole))
  const unknown = /\{([^{}]*)\}/.exec(rest)
  if (unknown) return `has no field {${unknown[1]}}; the fields are ${known}`
  if (/[{}]/.test(rest)) return `has a brace without its other half; the fields are ${known}`
  if (!/^[^\\%]*$/.test(rest) || /\p{Cc}|\p{Cs}/u.test(rest)) {
    return 'must not hold a backslash, a percent sign or a control character'
  }
  const segments = parse(template)
  if (segments.some((tokens) => tokens.length === 0)) return 'must not begin or end with a slash, or hold two in a row'
  if (segments.some(isDots)) return 'must not have a segment of dots or spaces'
  if (fieldsOf(segments[0]!).some((field) => NAME_FIELDS.includes(field))) {
    return 'must begin with a segment of text, {server}, {serverId} or dates, so that no name leaves that prefix'
  }
  if (!segments.flatMap(fieldsOf).some((field) => TELLING_FIELDS.includes(field))) {
    return 'must hold {path}, {filename} or {stem}, which tell files apart'
  }
  return null
}

/**
 * The segments of a file's key, not escaped yet, and whether its version is said in them. A template that
 * `templateFault` refuses has no meaning here.
 */
export function fillTemplate(template: string, file: KeyFile): { segments: string[]; saysVersion: boolean } {
  const parsed = parse(template)
  const values = valuesOf(file)
  const segments = parsed.flatMap((tokens) => fillSegment(tokens, values))
  return { segments, saysVersion: parsed.flatMap(fieldsOf).includes('version') }
}

function isField(name: string): boolean {
  return (KEY_FIELDS as readonly string[]).includes(name)
}

function parse(template: string): Template {
  return template.split('/').map((segment) =>
    segment
      .split(/(\{[^{}]*\})/)
      .filter((piece) => piece !== '')
      .map((piece) => (piece.startsWith('{') ? { field: piece.slice(1, -1) } : { text: piece }))
  )
}

function fieldsOf(tokens: Token[]): string[] {
  return tokens.flatMap((token) => ('field' in token ? [token.field] : []))
}

function isDots(tokens: Token[]): boolean {
  return tokens.every((token) => 'text' in token && /^[.\s]*$/.test(token.text))
}

/** A path goes on over several segments; a folder that is the root is none. */
function fillSegment(tokens: Token[], values: Record<string, string>): string[] {
  const filled = tokens.map((token) => ('text' in token ? token.text : values[token.field]!)).join('')
  return filled === '' && tokens.length === 1 && fieldsOf(tokens)[0] === 'dir' ? [] : filled.split('/')
}

/** `ext` has its dot, so that `{stem}{ext}` is the file's name; a name that begins with its only dot has none. */
function valuesOf(file: KeyFile): Record<string, string> {
  const path = file.path.replace(/^\//, '')
  const filename = path.slice(path.lastIndexOf('/') + 1)
  const dot = filename.lastIndexOf('.')
  const stem = dot > 0 ? filename.slice(0, dot) : filename
  const time = new Date(file.mtime).toISOString()
  return {
    server: file.serverName,
    serverId: file.serverId,
    path,
    dir: path.slice(0, Math.max(0, path.length - filename.length - 1)),
    filename,
    stem,
    ext: filename.slice(stem.length),
    yyyy: time.slice(0, time.indexOf('-', 1)),
    mm: time.slice(-19, -17),
    dd: time.slice(-16, -14),
    mtime: time.replace(/\.\d+Z$/, 'Z').replaceAll(/[-:]/g, ''),
    version: String(file.version)
  }
}
