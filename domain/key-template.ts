/**
 * The form of a server's object keys: text with fields in braces, such as `incoming/{server}/{yyyy}/{filename}`.
 *
 * What a server chooses (names, folders) stands only behind a first segment that it does not choose, so that no name
 * reaches out of the prefix. Here a template is read and filled in; object-key.ts escapes what comes out.
 */
export const DEFAULT_KEY_TEMPLATE = '{server}/{path}'

/** What each field says of a file. `ext` has its dot, so that `{stem}{ext}` is the name; one that begins with its only dot has none. */
const FIELDS: Record<string, (file: KeyFile) => string> = {
  server: (file) => file.serverName,
  serverId: (file) => file.serverId,
  path: (file) => file.path.replace(/^\//, ''),
  dir: (file) => file.path.slice(1, Math.max(1, file.path.lastIndexOf('/'))),
  filename: nameOf,
  stem: (file) => nameOf(file).slice(0, extensionAt(file)),
  ext: (file) => nameOf(file).slice(extensionAt(file)),
  yyyy: (file) => timeOf(file).slice(0, -20),
  mm: (file) => timeOf(file).slice(-19, -17),
  dd: (file) => timeOf(file).slice(-16, -14),
  mtime: (file) =>
    timeOf(file)
      .replace(/\.\d+Z$/, 'Z')
      .replaceAll(/[-:]/g, ''),
  version: (file) => String(file.version)
}
export const KEY_FIELDS = Object.keys(FIELDS)

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
  const segments = parsed.flatMap((tokens) => fillSegment(tokens, file))
  return { segments, saysVersion: parsed.flatMap(fieldsOf).includes('version') }
}

function isField(name: string): boolean {
  return Object.hasOwn(FIELDS, name)
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
function fillSegment(tokens: Token[], file: KeyFile): string[] {
  const filled = tokens.map((token) => ('text' in token ? token.text : FIELDS[token.field]!(file))).join('')
  return filled === '' && tokens.length === 1 && fieldsOf(tokens)[0] === 'dir' ? [] : filled.split('/')
}

function nameOf({ path }: KeyFile): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

/** Where the extension begins in the name, with its dot. */
function extensionAt(file: KeyFile): number {
  const name = nameOf(file)
  const dot = name.lastIndexOf('.')
  return dot > 0 ? dot : name.length
}

function timeOf({ mtime }: KeyFile): string {
  return new Date(mtime).toISOString()
}
