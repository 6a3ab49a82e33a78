import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import picomatch from 'picomatch'
import { compileGlob } from '../../domain/glob.ts'
import { cpuMsOf } from '../support/cpu-time.ts'

const matches = (pattern: string, text: string) => compileGlob(pattern)(text)

describe('compileGlob', () => {
  test.each([
    ['*', 'a.csv', true],
    ['*', 'a/b', false],
    ['*.csv', '.csv', true],
    ['*.csv', 'a\nb.csv', true],
    ['*.CSV', 'a.csv', false],
    ['.*', '.hidden', true],
    ['.*', 'visible', false],
    ['a?c', 'abc', true],
    ['a?c', 'a🚢c', true],
    ['a?c', 'ac', false],
    ['a?c', 'a/c', false],
    ['[a-c]x', 'bx', true],
    ['[!a-c]x', 'bx', false],
    ['[^a-c]x', 'dx', true],
    ['[!a]b', '/b', false],
    ['[]]x', ']x', true],
    ['[a-]x', '-x', true],
    ['[a\\]]x', ']x', true],
    ['*.{csv,txt}', 'a.txt', true],
    ['{a,b{c,d}}.x', 'bd.x', true],
    ['{a,b{c,d}}.x', 'b.x', false],
    ['{a}.x', '{a}.x', true],
    ['{,old-}a', 'a', true],
    ['\\*.csv', '*.csv', true],
    ['\\*.csv', 'a.csv', false],
    ['report (1).csv', 'report (1).csv', true],
    ['a.csv', 'abcsv', false],
    ['in/*.csv', 'in/a.csv', true],
    ['in/*.csv', 'in/deep/a.csv', false],
    ['in/**', 'in/deep/a.csv', true],
    ['in/**', 'inn/a.csv', false],
    ['**/*.csv', 'a.csv', true],
    ['**/*.csv', 'x/y/a.csv', true],
    ['**/in/*.csv', 'x/in/a.csv', true],
    ['**/in/*.csv', 'xin/a.csv', false],
    ['a/**/b', 'a/b', true],
    ['a/**/b', 'a/x/y/b', true],
    ['a/**/b', 'a/xb', false],
    ['**', 'x/y', true],
    ['a**b', 'axxb', true],
    ['a**b', 'a/b', false]
  ])('%j and %j: %j', (pattern, text, expected) => {
    expect(matches(pattern, text)).toBe(expected)
  })

  test('a pattern with one star or none says the same as one whose every character is in brackets', () => {
    const text = fc.array(fc.constantFrom('a', 'b', '.', '/', '🚢', '\n'), { maxLength: 4 }).map((all) => all.join(''))
    const bracketed = (part: string) => [...part].map((one) => (one === '/' ? one : `[${one}]`)).join('')
    fc.assert(
      fc.property(text, text, text, fc.boolean(), (start, middle, end, hasStar) => {
        const [plain, long] = hasStar
          ? [`${start}*${end}`, `${bracketed(start)}*${bracketed(end)}`]
          : [start + end, bracketed(start + end)]
        for (const name of [start + middle + end, start + end, middle, `${start}${end.slice(1)}`]) {
          expect(matches(plain, name)).toBe(matches(long, name))
        }
      }),
      { numRuns: 2000 }
    )
  })

  test('agrees with picomatch wherever a name has no dots alone', () => {
    const piece = fc.constantFrom('a', 'b', '.', '*', '?', '[ab]', '[^a]', '{a,b}', '{a*,bb}', '/', '**/', '/**')
    const patterns = fc
      .array(piece, { minLength: 1, maxLength: 8 })
      .map((pieces) => pieces.join(''))
      .filter((pattern) => !/\/\/|^\/|\/$|\*\*\*|[^/]\*\*|\*\*[^/]|(^|\/)\.+(\/|$)/.test(pattern))
    const segment = fc.string({ unit: fc.constantFrom('a', 'b', '.'), minLength: 1, maxLength: 5 })
    const names = fc
      .array(
        segment.filter((name) => !/^\.+$/.test(name)),
        { minLength: 1, maxLength: 4 }
      )
      .map((segments) => segments.join('/'))
    fc.assert(
      fc.property(patterns, names, (pattern, name) => {
        const theirs = picomatch(pattern, { dot: true, flags: 's', strictSlashes: true })
        fc.pre(!(pattern.endsWith('**') && !name.includes('/')))
        expect(matches(pattern, name)).toBe(theirs(name))
      }),
      { numRuns: 3000 }
    )
  })

  test.each([
    ['*a*a*a*a*a*a*a*a*a*a*b', 'a'.repeat(255)],
    ['*_*_*_*_*.csv', '_'.repeat(255)],
    ['*?*?*?*?*?*?*?*?b', 'a'.repeat(255)],
    ['**/a/**/a/**/a/**/a/**/b', 'a/'.repeat(2000)],
    ['{a*a*,*a*a}{a*a*,*a*a}{a*a*,*a*a}{a*a*,*a*a}b', 'a'.repeat(255)],
    ['*'.repeat(256), 'a'.repeat(4096)]
  ])('the hostile pair %j takes no longer than any other', (pattern, text) => {
    const match = compileGlob(pattern)
    expect(cpuMsOf(() => match(text))).toBeLessThan(500)
  })

  test.each(['[a', '{a,b', 'a\\', '!*.csv', '+(a|b)', '@(a)', '*(1).csv', '{1..3}', '[[:digit:]]', '{a,b}'.repeat(9)])(
    '%j, which would not mean what it looks like, is refused',
    (pattern) => {
      expect(() => compileGlob(pattern)).toThrow(/\S/)
    }
  )

  test('any pattern is either refused or matched against any name', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 40 }), fc.string({ unit: 'binary', maxLength: 40 }), (pattern, name) => {
        let match: (text: string) => boolean
        try {
          match = compileGlob(pattern)
        } catch (error) {
          expect((error as Error).constructor).toBe(Error)
          return
        }
        expect(typeof match(name)).toBe('boolean')
      })
    )
  })

  test('an escaped name matches itself and nothing else', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1 }), fc.string({ unit: 'binary' }), (name, other) => {
        const match = compileGlob([...name].map((character) => `\\${character}`).join(''))
        expect(match(name)).toBe(true)
        expect(match(other)).toBe(other === name)
      })
    )
  })
})
