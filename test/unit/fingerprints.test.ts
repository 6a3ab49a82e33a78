import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { Fingerprints, fingerprint, indexIn, merged } from '../../workers/fingerprints.ts'

const texts = fc.array(fc.string({ unit: 'binary', maxLength: 12 }), { maxLength: 200 })
const sortedOf = (all: string[]) => {
  const list = new Fingerprints()
  for (const text of all) list.add(fingerprint(text))
  return list.sorted()
}

describe('fingerprints', () => {
  test('the same text has one, other texts have others, and it is a number that compares', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (a, b) => {
        expect(fingerprint(a) === fingerprint(b)).toBe(a === b)
        expect(Number.isFinite(fingerprint(a))).toBe(true)
      })
    )
  })

  test('what was added is found, and nothing else', () => {
    fc.assert(
      fc.property(texts, texts, (added, asked) => {
        const sorted = sortedOf(added)
        expect(sorted.length).toBe(added.length)
        for (const text of added) expect(sorted[indexIn(sorted, fingerprint(text))]).toBe(fingerprint(text))
        for (const text of asked) expect(indexIn(sorted, fingerprint(text)) >= 0).toBe(added.includes(text))
      })
    )
  })

  test('two sorted lists make one in which each is there once', () => {
    fc.assert(
      fc.property(texts, texts, (a, b) => {
        const both = merged(sortedOf(a), sortedOf(b))
        const expected = [...new Set([...a, ...b].map(fingerprint))].sort((x, y) => x - y)
        expect([...both]).toEqual(expected)
      })
    )
  })

  test('a hundred thousand take eight bytes each', () => {
    const sorted = sortedOf(Array.from({ length: 100_000 }, (_, i) => `/in/${i}`))
    expect(merged(sorted, new Float64Array(0)).buffer.byteLength).toBe(800_000)
  })
})
