import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { MarkerPolicy } from '../../domain/marker.ts'
import { createReadiness, isMovedInto, type Known, markerPath, placeOf, type Seen } from '../../domain/readiness.ts'
import type { ServerPolicy } from '../../domain/server.ts'
import { scanPolicy } from '../support/scan-policy.ts'

const start = 1_700_000_000_000
const policy: ServerPolicy = { ...scanPolicy, roots: ['/in'], maxDepth: 3, tempPatterns: ['*.part', '.*'] }
const with_ = (change: Partial<ServerPolicy>) => createReadiness({ ...policy, ...change })
const file = (change: Partial<Seen> = {}): Seen => ({
  path: '/in/a.csv',
  relative: 'a.csv',
  size: 5,
  mtime: start - 3_600_000,
  ...change
})

describe('a verdict', () => {
  const verdict = (change: Partial<ServerPolicy>, seen: Partial<Seen> = {}, known: Known = null) =>
    with_(change).judge(file(seen), known, start)

  test('says of each obstacle what it is', () => {
    expect(verdict({})).toMatchObject({ kind: 'taken' })
    expect(verdict({}, { relative: 'a.part' })).toEqual({ kind: 'ignored', reason: 'a temporary name, by `*.part`' })
    expect(verdict({ include: ['*.xml'] })).toEqual({ kind: 'ignored', reason: 'not matched by include, `*.xml`' })
    expect(verdict({ exclude: ['a*'] })).toEqual({ kind: 'ignored', reason: 'matched by exclude, `a*`' })
    expect(verdict({}, { relative: '.longshore-x' })).toMatchObject({ kind: 'ignored' })
    expect(verdict({ marker: { suffix: '.done' } }, { relative: 'a.csv.done' })).toEqual({
      kind: 'ignored',
      reason: 'a marker'
    })
    expect(verdict({ emptyFiles: 'skip' }, { size: 0 })).toEqual({ kind: 'skipped', reason: 'empty' })
    expect(verdict({ maxSize: 4 })).toMatchObject({ kind: 'skipped', reason: expect.stringContaining('too large') })
    expect(verdict({ settle: { checks: 2, seconds: 30 } })).toMatchObject({
      kind: 'settling',
      reason: 'look 1 of 2',
      lookAt: start + 30_000
    })
  })

  test('names everything that a file waits for, the marker first', () => {
    const waiting = { marker: { suffix: '.done' }, minAge: 7200, settle: { checks: 2, seconds: 30 } }
    expect(verdict(waiting, { markerMtime: null })).toMatchObject({
      kind: 'marker',
      reason: 'waits for its marker a.csv.done; too young: minAge is 7200 s, reached in 3600 s; look 1 of 2'
    })
    expect(verdict(waiting, { markerMtime: start })).toMatchObject({
      kind: 'age',
      reason: expect.stringMatching(/^too young/)
    })
  })

  test('a file is looked at again when it is old enough, whatever its own time says', () => {
    const young = { mtime: start - 60_000 }
    expect(verdict({ minAge: 100 }, young)).toMatchObject({ kind: 'age', lookAt: start + 40_000 })
    const future = { mtime: start + 86_400_000 }
    expect(verdict({ minAge: 100 }, future)).toMatchObject({ kind: 'age', lookAt: start + 100_000 })
    const known = { size: 5, mtime: future.mtime, settle: { looks: 1, since: start - 100_000 } }
    expect(verdict({ minAge: 100 }, future, known)).toMatchObject({ kind: 'taken' })
  })

  test('a marker of an earlier delivery does not count', () => {
    const marked = (markerMtime: number) => verdict({ marker: { file: '_SUCCESS' } }, { mtime: start, markerMtime })
    expect(marked(start - 1000)).toMatchObject({
      kind: 'marker',
      reason: 'waits for its marker _SUCCESS, which is older than the file'
    })
    expect(marked(start)).toMatchObject({ kind: 'taken' })
  })
})

describe('markers', () => {
  test.each<[MarkerPolicy, string, string]>([
    [{ suffix: '.done' }, '/in/a.csv', '/in/a.csv.done'],
    [{ extension: '.done' }, '/in/a.csv', '/in/a.done'],
    [{ extension: '.done' }, '/in.d/plain', '/in.d/plain.done'],
    [{ file: '_SUCCESS' }, '/in/a.csv', '/in/_SUCCESS']
  ])('%j: %s waits for %s', (marker, path, expected) => {
    expect(markerPath({ marker }, path)).toBe(expected)
  })

  test('no file waits for a marker that is not taken for one', () => {
    const markers = fc.oneof(
      fc.record({ suffix: fc.string({ minLength: 1 }) }),
      fc.record({ extension: fc.string({ minLength: 1 }) }),
      fc.record({ file: fc.string({ minLength: 1 }) })
    )
    fc.assert(
      fc.property(markers, fc.string({ minLength: 1 }), (marker, name) => {
        const clean = name.replaceAll('/', '_')
        const path = markerPath({ marker: marker as MarkerPolicy }, `/${clean}`)!
        const relative = path.slice(1)
        if (relative.includes('/')) return
        const verdict = with_({ marker: marker as MarkerPolicy }).sight(file({ path, relative }))
        expect(verdict.kind).toBe('ignored')
      })
    )
  })
})

describe('whatever the looks', () => {
  const policies = fc.record({
    settle: fc.record({ checks: fc.integer({ min: 1, max: 5 }), seconds: fc.integer({ min: 0, max: 600 }) }),
    minAge: fc.constantFrom(0, 0, 1, 600, 86_400),
    marker: fc.constantFrom<MarkerPolicy | null>(null, { suffix: '.done' }, { file: 'ok' })
  })
  const mtimes = fc.integer({ min: start - 10_000_000, max: start + 10_000_000 })

  test('a file that stays as it is is taken in the end by looking when it says, and never before it is ready', () => {
    fc.assert(
      fc.property(policies, mtimes, fc.integer({ min: 0, max: 100_000_000 }), (change, mtime, markedAfterMs) => {
        const readiness = with_(change)
        const markerAt = start + markedAfterMs
        let now = start
        let known: Known = null
        for (let looks = 1; ; looks++) {
          const isMarked = now >= markerAt
          const seen = file({ mtime, markerMtime: isMarked ? Math.max(mtime, markerAt) : null })
          const verdict = readiness.judge(seen, known, now)
          if (verdict.kind === 'ignored' || verdict.kind === 'skipped') throw new Error(verdict.reason)
          if (verdict.kind === 'taken') {
            if (change.marker) expect(isMarked).toBe(true)
            expect(looks).toBeGreaterThanOrEqual(change.settle.checks)
            expect(now - start).toBeGreaterThanOrEqual(change.settle.seconds * 1000)
            expect(now).toBeGreaterThanOrEqual(Math.min(mtime, start) + change.minAge * 1000)
            const readyMs = Math.max(
              change.settle.seconds * 1000,
              change.minAge * 1000,
              change.marker ? markedAfterMs : 0
            )
            // The looks of a settle check, and the pause between two looks for a marker.
            expect(now - start).toBeLessThanOrEqual(readyMs + change.settle.seconds * 1000 + 5 * 600_000 + 10_000)
            return
          }
          expect(verdict.lookAt).toBeGreaterThan(now)
          expect(verdict.reason).not.toBe('')
          known = { size: seen.size, mtime, settle: verdict.settle }
          now = Math.ceil(verdict.lookAt)
        }
      })
    )
  })

  test('a change begins the waiting anew', () => {
    fc.assert(
      fc.property(policies, fc.integer({ min: 1, max: 10_000_000 }), (change, elapsed) => {
        const known: Known = { size: 5, mtime: 0, settle: { looks: 50, since: start - elapsed } }
        const verdict = with_(change).judge(file({ size: 6, mtime: start }), known, start)
        if (verdict.kind === 'taken') expect(change).toMatchObject({ settle: { checks: 1, seconds: 0 }, minAge: 0 })
        else expect(verdict).toMatchObject({ settle: { looks: 1, since: start } })
      })
    )
  })
})

describe('the place of a path', () => {
  const place = (path: string, change: Partial<ServerPolicy> = {}, roots = ['/in', '/other']) =>
    placeOf({ ...policy, ...change }, roots, path)

  test('is below the root that holds it', () => {
    expect(place('/in/a/b.csv')).toEqual({ kind: 'inside', root: '/in', relative: 'a/b.csv' })
    expect(place('/a.csv', {}, ['/'])).toEqual({ kind: 'inside', root: '/', relative: 'a.csv' })
  })

  test('is ignored where no scan comes, and says why', () => {
    expect(place('/inner/a.csv')).toMatchObject({ reason: 'outside the roots' })
    expect(place('/in/1/2/3/4/a')).toMatchObject({ reason: 'deeper than maxDepth, 3' })
    expect(place('/in/1/a', { recursive: false })).toMatchObject({ reason: expect.stringContaining('recursive') })
    expect(place('/in/.longshore-x/a')).toMatchObject({ reason: expect.stringContaining('working folder') })
    expect(place('/in/done/a', { movedInto: ['done'] })).toMatchObject({
      reason: expect.stringContaining('afterUpload')
    })
  })

  test('a folder that files were moved into is passed over, unless a root lies in it', () => {
    const moved = { movedInto: ['/in/done', 'old'] }
    expect(isMovedInto(moved, ['/in'], '/in/done')).toBe(true)
    expect(isMovedInto(moved, ['/in'], '/in/done/x')).toBe(true)
    expect(isMovedInto(moved, ['/in'], '/in/done2')).toBe(false)
    expect(isMovedInto(moved, ['/in', '/b'], '/b/old/x')).toBe(true)
    expect(isMovedInto(moved, ['/in/done/2025'], '/in/done/2025/x')).toBe(false)
  })
})
