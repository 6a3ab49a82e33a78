import { IngestError } from '../../domain/errors.ts'

/**
 * Where an object's bytes are: a path that a human can read and that belongs to one key alone, on file systems that
 * fold case (macOS, SMB) or normalise Unicode as on others. `north/2026/Report é.csv` is at
 * `north.d/2026.d/!report %c3%a9.csv`.
 *
 *   a-z 0-9 and `_-.,=+@()` and space   themselves, but for a dot that begins a name
 *   A-Z                                 `!` and the small letter, as Go's module cache does
 *   any other byte of UTF-8             `%` and two hex digits
 *   a folder                            ends in `.d`, so that `a` may be beside `a/b`; no file's name ends so
 *   more than 200 bytes of a name       cut, each piece but the last a folder that ends in `.c`
 *   an empty last name (`a/`)           `%`
 *
 * Decoding is reading it backwards, hence two keys never share a path. A key of 1,024 bytes makes 3,072 at most.
 */
export function pathOf(key: string): string {
  if (!key.isWellFormed() || key === '') throw new IngestError('STORE_REJECTED', 'an object key must be Unicode text')
  const names = key.split('/')
  const last = names.pop()!
  const folders = names.flatMap((name) => {
    const pieces = cut(encode(name))
    return [...pieces.slice(0, -1).map((piece) => `${piece}.c`), `${pieces.at(-1)}.d`]
  })
  const pieces = cut(encode(last))
  return [...folders, ...pieces.slice(0, -1).map((piece) => `${piece}.c`), fileName(pieces.at(-1)!)].join('/')
}

/** The key whose path this is. */
export function keyOf(path: string): string {
  let encoded = ''
  for (const name of path.split('/')) {
    if (name.endsWith('.c')) encoded += name.slice(0, -2)
    else if (name.endsWith('.d')) encoded += `${name.slice(0, -2)}/`
    else if (name !== '%') encoded += name
  }
  return decodeURIComponent(encoded.replace(/!(.)/g, (_, letter: string) => letter.toUpperCase()))
}

const pieceBytes = 200

function encode(name: string): string {
  return name
    .replace(/[^a-zA-Z0-9_\-.,=+@() ]+|^\./gu, percent)
    .replace(/[A-Z]|%[0-9a-f]{2}/g, (text) => (text.length === 1 ? `!${text.toLowerCase()}` : text))
}

function fileName(piece: string): string {
  return piece === '' ? '%' : piece.replace(/\.(?=[cd]?$)/g, percent).replace(/^\./, percent)
}

function percent(text: string): string {
  return Array.from(Buffer.from(text), (byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
}

function cut(name: string): string[] {
  const pieces: string[] = []
  let rest = name
  while (rest.length > pieceBytes) {
    pieces.push(rest.slice(0, pieceBytes))
    rest = rest.slice(pieceBytes)
  }
  return [...pieces, rest]
}
