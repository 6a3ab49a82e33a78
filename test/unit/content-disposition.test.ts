import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { contentDisposition } from '../../domain/content-disposition.ts'

/** As a browser reads it: the extended value where there is one. */
function readBack(header: string): string {
  const extended = /; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_`|~%-]+)$/.exec(header)
  if (extended) return decodeURIComponent(extended[1]!)
  return /^attachment; filename="([^"\\]*)"$/.exec(header)![1]!
}

describe('Content-Disposition', () => {
  test('a plain name stands in quotes and nothing else', () => {
    expect(contentDisposition('report 2030-01.csv')).toBe('attachment; filename="report 2030-01.csv"')
  })

  test.each([
    ['a quote', 'a"b.txt', 'attachment; filename="a_b.txt"; filename*=UTF-8\'\'a%22b.txt'],
    ['a backslash', 'a\\b', 'attachment; filename="a_b"; filename*=UTF-8\'\'a%5Cb'],
    ['a percent sign', '50%25', 'attachment; filename="50_25"; filename*=UTF-8\'\'50%2525'],
    [
      'a line break',
      'a\r\nSet-Cookie: b',
      'attachment; filename="a__Set-Cookie: b"; filename*=UTF-8\'\'a%0D%0ASet-Cookie%3A%20b'
    ],
    ['Cyrillic', 'счёт.txt', 'attachment; filename="____.txt"; filename*=UTF-8\'\'%D1%81%D1%87%D1%91%D1%82.txt'],
    ['an emoji, one sign', '🚢', 'attachment; filename="_"; filename*=UTF-8\'\'%F0%9F%9A%A2'],
    [
      'marks that RFC 8187 does not take',
      "ä'(1)*",
      "attachment; filename=\"_'(1)*\"; filename*=UTF-8''%C3%A4%27%281%29%2A"
    ]
  ])('%s is escaped', (_what, name, header) => {
    expect(contentDisposition(name)).toBe(header)
  })

  test('whatever the name, the header is one line of ASCII and gives the name back', () => {
    const names = fc.oneof(fc.string({ unit: 'binary', minLength: 1 }), fc.string({ unit: 'grapheme', minLength: 1 }))
    fc.assert(
      fc.property(names, (name) => {
        const header = contentDisposition(name)
        expect(header).toMatch(/^[\x20-\x7e]+$/)
        expect(readBack(header)).toBe(name.toWellFormed())
      })
    )
  })
})
