import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { KEY_FIELDS, templateFault } from '../../domain/key-template.ts'
import { alternativeKey, objectKey } from '../../domain/object-key.ts'

const hostile = fc.constantFrom(
  ...['.', '..', '...', ' ', '. ', '..\\..', '\\', '%', '%2E', '%2F', '\n', '\u0000', '\u007f', '~', 'a@2', '@', ''],
  ...['e\u0301', '\u00e9', '🚢', '\u{10ffff}', '\u00a0', '.\u2028', 'x'.repeat(255), '%'.repeat(100), '文'.repeat(86)]
)
const segments = fc.oneof(
  hostile,
  fc.string({ unit: 'binary', maxLength: 8 }).map((name) => name.replaceAll('/', '|')),
  fc.tuple(hostile, hostile, fc.nat(99)).map(([a, b, n]) => `${a}${b}${n}`),
  fc.string({ unit: 'binary', minLength: 80, maxLength: 255 }).map((name) => name.replaceAll('/', '|'))
)
const paths = fc
  .array(segments, { minLength: 1, maxLength: 12 })
  .map((names) => `/${names.join('/')}`)
  .filter((path) => path.isWellFormed())
const files = fc.record({
  serverId: fc.uuid(),
  mtime: fc.integer({ min: 0, max: 2 ** 32 - 1 }).map((seconds) => seconds * 1000),
  serverName: fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/),
  path: paths,
  version: fc.integer({ min: 1, max: 3 })
})

const acme = { serverName: 'acme', serverId: 'id-1', mtime: Date.UTC(2026, 10, 4, 9, 5, 7) }
const keyOf = (path: string, version: number, template?: string) => objectKey({ ...acme, path, version }, template)

function expectFit(key: string): void {
  expect(Buffer.byteLength(key)).toBeLessThanOrEqual(1024)
  for (const segment of key.split('/')) {
    expect(Buffer.byteLength(segment)).toBeLessThanOrEqual(255)
    expect(segment.trim()).not.toMatch(/^\.*$/)
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: none may be left
  expect(key).not.toMatch(/[\\\u0000-\u001f\u007f]/)
}

describe('objectKey', () => {
  test.each([
    ['/in/a.csv', 1, 'acme/in/a.csv'],
    ['/in/a.csv', 2, 'acme/in/a.csv@2'],
    ['/in/../a', 1, 'acme/in/%2E%2E/a'],
    ['/in/. ./a', 1, 'acme/in/%2E%20%2E/a'],
    ['/in/..a', 1, 'acme/in/..a'],
    ['/in\\..\\a', 1, 'acme/in%5C..%5Ca'],
    ['/100%', 1, 'acme/100%25'],
    ['/a\nb', 1, 'acme/a%0Ab'],
    ['/in//a', 1, 'acme/in/%2F/a'],
    ['//a', 1, 'acme/%2F/a']
  ])('the key of %j, version %d, is %j', (path, version, key) => {
    expect(keyOf(path, version)).toBe(key)
  })

  test('no name leaves its prefix, and every key fits every store', () => {
    fc.assert(
      fc.property(files, (file) => {
        const key = objectKey(file)
        expect(key.startsWith(`${file.serverName}/`)).toBe(true)
        expectFit(key)
      }),
      { numRuns: 500 }
    )
  })

  test('two paths of a server never share a key', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(paths, { minLength: 2, maxLength: 30 }),
        fc.integer({ min: 1, max: 3 }),
        (all, version) => {
          const keys = all.map((path) => keyOf(path, version))
          expect(new Set(keys).size).toBe(all.length)
        }
      ),
      { numRuns: 300 }
    )
  })

  test('two versions of a path never share a key', () => {
    fc.assert(
      fc.property(files, (file) => {
        const keys = [1, 2, 12].map((version) => objectKey({ ...file, version }))
        expect(new Set(keys).size).toBe(3)
      })
    )
  })

  test('a long folder keeps one key in all versions of what is below it', () => {
    const path = `/${'%'.repeat(200)}/a`
    const folder = (version: number) => keyOf(path, version).split('/')[1]
    expect(folder(2)).toBe(folder(1))
  })

  test('version 1 of a name that ends like a version shares the key of that version: the unique index tells them apart', () => {
    const one = keyOf('/a@2', 1)
    expect(one).toBe(keyOf('/a', 2))
    expect(alternativeKey(one, 'id1')).not.toBe(alternativeKey(one, 'id2'))
  })

  test('lone surrogates are taken', () => {
    for (const path of ['/\ud800', `/${'\udfff'.repeat(300)}`, '/a\ud83d/b']) {
      for (const key of [keyOf(path, 1)]) expectFit(key)
    }
  })

  test('what is cut stays recognizable', () => {
    const key = keyOf(`/in/${'report-'.repeat(60)}.csv`, 1)
    expect(key).toMatch(/^acme\/in\/report-report-.*~[0-9a-f]{32}$/)
  })
})

describe('a template', () => {
  test.each([
    ['{server}/{path}', '/in/a.csv', 1, 'acme/in/a.csv'],
    ['in/{serverId}/{yyyy}/{mm}/{dd}/{filename}', '/x/a.csv', 2, 'in/id-1/2026/11/04/a.csv@2'],
    ['{server}/{dir}/v{version}/{stem}{ext}', '/x/y/a.tar.gz', 3, 'acme/x/y/v3/a.tar.gz'],
    ['{server}/{dir}/{filename}', '/a.csv', 1, 'acme/a.csv'],
    ['{server}/{dir}-x/{filename}', '/a.csv', 1, 'acme/-x/a.csv'],
    ['{server}/{mtime}-{stem}', '/.profile', 1, 'acme/20261104T090507Z-.profile'],
    ['{server}/{stem}|{ext}', '/no-dot', 1, 'acme/no-dot|'],
    ['all/old-{path}', '/x/a', 1, 'all/old-x/a'],
    ['{server}/{ext}/{filename}', '/a.', 1, 'acme/%2E/a.'],
    ['{server}/{ext}/{filename}', '/a', 1, 'acme/%2F/a'],
    ['{server}/{stem}', '/x/... .csv', 1, 'acme/%2E%2E%2E%20'],
    ['{server}/{filename}', '/x/..\\b%', 1, 'acme/..%5Cb%25']
  ])('%s of %j, version %d, gives %j', (template, path, version, key) => {
    expect(templateFault(template)).toBeNull()
    expect(keyOf(path, version, template)).toBe(key)
  })

  test.each([
    ['', /slash/],
    ['/a/{path}', /slash/],
    ['a//{path}', /slash/],
    ['a/{path}/', /slash/],
    ['{server}/{name}', /has no field \{name\}; the fields are server, serverId, path/],
    ['{server}/{}', /has no field \{\}/],
    ['{server}/{path', /brace/],
    ['{server}/path}', /brace/],
    ['{server}/{{path}}', /has no field/],
    ['{path}', /begin with a segment/],
    ['a-{filename}/b', /begin with a segment/],
    ['a/../{path}', /dots/],
    ['a/ ./{path}', /dots/],
    ['a\\b/{path}', /backslash/],
    ['a%2F/{path}', /percent/],
    ['a\n/{path}', /control/],
    ['{server}/{yyyy}', /tell files apart/],
    [`${'a'.repeat(256)}/{path}`, /256/]
  ])('%j is refused', (template, fault) => {
    expect(templateFault(template)).toMatch(fault)
  })

  const pieces = fc.constantFrom(...KEY_FIELDS.map((field) => `{${field}}`), 'x', '-', '.', ' ')
  const templates = fc
    .tuple(
      fc.constantFrom('{server}', '{serverId}', 'in', '{yyyy}-{mm}', 'a.{server}'),
      fc.array(fc.array(pieces, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 5 })
    )
    .map(([first, rest]) => [first, ...rest.map((one) => one.join(''))].join('/'))
    .filter((template) => templateFault(template) === null)

  test('no name leaves the first segment, and every key fits every store, whatever the template', () => {
    fc.assert(
      fc.property(templates, files, (template, file) => {
        const key = objectKey(file, template)
        const [first] = objectKey({ ...file, path: '/plain' }, template).split('/')
        expect(key.startsWith(`${first}/`)).toBe(true)
        expectFit(key)
      }),
      { numRuns: 1000 }
    )
  })

  test('two versions of a file never share a key', () => {
    fc.assert(
      fc.property(templates, files, (template, file) => {
        const keys = [1, 2, 12].map((version) => objectKey({ ...file, version }, template))
        expect(new Set(keys).size).toBe(3)
      }),
      { numRuns: 500 }
    )
  })
})

describe('alternativeKey', () => {
  const id = 'A'.repeat(24)

  test('says the id after the key', () => {
    expect(alternativeKey('acme/a', id)).toBe(`acme/a~${id}`)
  })

  test('fits every store, differs from the key, and ends in the id', () => {
    fc.assert(
      fc.property(files, (file) => {
        const key = objectKey(file)
        const other = alternativeKey(key, id)
        const third = alternativeKey(other, id)
        expect(new Set([key, other, third]).size).toBe(3)
        for (const one of [other, third]) {
          expectFit(one)
          expect(one.startsWith(`${file.serverName}/`)).toBe(true)
          expect(one.endsWith(`~${id}`)).toBe(true)
        }
      }),
      { numRuns: 300 }
    )
  })
})
