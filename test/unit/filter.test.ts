import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { createFilter, DEFAULT_TEMP_PATTERNS } from '../../domain/filter.ts'
import { cpuMsOf } from '../support/cpu-time.ts'

const open = {
  include: [] as string[],
  exclude: [] as string[],
  tempPatterns: [] as string[],
  emptyFiles: 'take' as const,
  maxSize: null
}
const verdict = (policy: Partial<Parameters<typeof createFilter>[0]>, path: string, size = 1) =>
  createFilter({ ...open, ...policy }).file(path, size)
const taken = { kind: 'taken' }

describe('createFilter', () => {
  test('a policy without patterns takes every name that is not our own', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1 }), fc.nat(), (name, size) => {
        fc.pre(!name.slice(name.lastIndexOf('/') + 1).startsWith('.longshore-'))
        expect(verdict({}, name, size)).toEqual(taken)
      })
    )
    expect(verdict({}, 'in/.longshore-abc')).toMatchObject({ kind: 'ignored' })
  })

  test('a pattern without a slash matches the name in any folder', () => {
    expect(verdict({ include: ['*.csv'] }, 'a.csv')).toEqual(taken)
    expect(verdict({ include: ['*.csv'] }, 'deep/er/a.csv')).toEqual(taken)
    expect(verdict({ include: ['deep'] }, 'deep/a.csv')).toMatchObject({ kind: 'ignored' })
  })

  test('a pattern with a slash matches the path below the root', () => {
    for (const include of [['in/*.csv'], ['/in/*.csv']]) {
      expect(verdict({ include }, 'in/a.csv')).toEqual(taken)
      expect(verdict({ include }, 'x/in/a.csv')).toMatchObject({ kind: 'ignored' })
      expect(verdict({ include }, 'in/x/a.csv')).toMatchObject({ kind: 'ignored' })
    }
    expect(verdict({ include: ['/a.csv'] }, 'a.csv')).toEqual(taken)
  })

  test('exclude wins over include', () => {
    const policy = { include: ['*.csv'], exclude: ['*-old.csv', 'archive/**'] }
    expect(verdict(policy, 'a.csv')).toEqual(taken)
    expect(verdict(policy, 'a-old.csv')).toEqual({ kind: 'ignored', reason: 'matched by exclude, `*-old.csv`' })
    expect(verdict(policy, 'archive/2020/a.csv')).toEqual({
      kind: 'ignored',
      reason: 'matched by exclude, `archive/**`'
    })
    expect(verdict(policy, 'a.txt')).toEqual({ kind: 'ignored', reason: 'not matched by include, `*.csv`' })
  })

  test('newlines and other control characters belong to a name', () => {
    expect(verdict({ include: ['*.csv'] }, 'in/a\nb\u0007.csv')).toEqual(taken)
    expect(verdict({ include: ['a?b.csv'] }, 'a\nb.csv')).toEqual(taken)
    expect(verdict({ exclude: ['*.csv'] }, 'a.csv\n')).toEqual(taken)
  })

  test('dot files are matched like others and temporary by default', () => {
    expect(verdict({ include: ['*'] }, '.profile')).toEqual(taken)
    for (const name of ['.profile', 'a.part', 'a.tmp', 'a.filepart', 'a.crdownload']) {
      expect(verdict({ tempPatterns: DEFAULT_TEMP_PATTERNS }, `in/${name}`)).toMatchObject({ kind: 'ignored' })
    }
    expect(verdict({ tempPatterns: DEFAULT_TEMP_PATTERNS }, '.hidden/a.csv')).toEqual(taken)
  })

  test('empty files are taken or skipped as the policy says', () => {
    expect(verdict({ emptyFiles: 'take' }, 'a', 0)).toEqual(taken)
    expect(verdict({ emptyFiles: 'skip' }, 'a', 0)).toEqual({ kind: 'skipped', reason: 'empty' })
    expect(verdict({ emptyFiles: 'skip' }, 'a', 1)).toEqual(taken)
  })

  test('a file is skipped above maxSize, and not at it', () => {
    expect(verdict({ maxSize: 10 }, 'a', 10)).toEqual(taken)
    expect(verdict({ maxSize: 10 }, 'a', 11)).toMatchObject({ kind: 'skipped', reason: expect.stringContaining('11') })
    expect(verdict({ maxSize: 0 }, 'a', 0)).toEqual(taken)
    expect(verdict({ maxSize: 0 }, 'a', 1)).toMatchObject({ kind: 'skipped' })
  })

  test('an ignored file is not called too large', () => {
    expect(verdict({ exclude: ['*.iso'], maxSize: 1 }, 'a.iso', 9)).toMatchObject({ kind: 'ignored' })
  })

  test('hostile names cost no time', () => {
    const filter = createFilter({ ...open, include: ['*a*a*a*a*a*b', '*_*_*_*_*.csv'] })
    // Longer ones would keep a matcher that backtracks busy for hours.
    const hostile = ['a'.repeat(90), '_'.repeat(255)]
    const judge = () => {
      for (const name of hostile) filter.file(name, 1)
    }
    expect(cpuMsOf(judge)).toBeLessThan(500)
  })
})
