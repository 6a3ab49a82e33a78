import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
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
  serverName: fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/),
  path: paths,
  version: fc.integer({ min: 1, max: 3 })
})

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
    expect(objectKey({ serverName: 'acme', path, version })).toBe(key)
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
          const keys = all.map((path) => objectKey({ serverName: 'acme', path, version }))
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
    const folder = (version: number) => objectKey({ serverName: 'acme', path, version }).split('/')[1]
    expect(folder(2)).toBe(folder(1))
  })

  test('version 1 of a name that ends like a version shares the key of that version: the unique index tells them apart', () => {
    const one = objectKey({ serverName: 'acme', path: '/a@2', version: 1 })
    expect(one).toBe(objectKey({ serverName: 'acme', path: '/a', version: 2 }))
    expect(alternativeKey(one, 'id1')).not.toBe(alternativeKey(one, 'id2'))
  })

  test('lone surrogates are taken', () => {
    for (const path of ['/\ud800', `/${'\udfff'.repeat(300)}`, '/a\ud83d/b']) {
      for (const key of [objectKey({ serverName: 'acme', path, version: 1 })]) expectFit(key)
    }
  })

  test('what is cut stays recognizable', () => {
    const key = objectKey({ serverName: 'acme', path: `/in/${'report-'.repeat(60)}.csv`, version: 1 })
    expect(key).toMatch(/^acme\/in\/report-report-.*~[0-9a-f]{32}$/)
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
