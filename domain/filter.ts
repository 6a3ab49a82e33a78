/** Which files a server's policy takes. Pure but for the compiled patterns, which are kept by the caller. */
import { compileGlob } from './glob.ts'
import { isMarker } from './marker.ts'
import type { ServerPolicy } from './server.ts'

export const DEFAULT_TEMP_PATTERNS = ['*.part', '*.tmp', '*.filepart', '*.crdownload', '.*']
/** Files and folders of our own (a post action renames aside to this prefix); never scanned. */
export const OWN_PREFIX = '.longshore-'

/** `ignored` files get no record at all; `skipped` ones get one that says why. */
export type Verdict = { kind: 'taken' } | { kind: 'ignored'; reason: string } | { kind: 'skipped'; reason: string }

export interface Filter {
  /** `relative` is the path below its root, without a leading slash. */
  file(relative: string, sizeBytes: number): Verdict
}

/** The pattern that matches; undefined when none does. */
type Matcher = (name: string, relative: string) => string | undefined

/** A pattern without a slash matches the name, one with a slash the path below the root. A bad pattern throws. */
function compile(patterns: string[]): Matcher {
  const compiled = patterns.map((pattern) => ({
    pattern,
    byPath: pattern.includes('/'),
    matches: compileGlob(pattern.replace(/^\//, ''))
  }))
  return (name, relative) => compiled.find((one) => one.matches(one.byPath ? relative : name))?.pattern
}

type FilterPolicy = Pick<ServerPolicy, 'include' | 'exclude' | 'tempPatterns' | 'emptyFiles' | 'maxSize'> &
  Partial<Pick<ServerPolicy, 'marker'>>

export function createFilter(policy: FilterPolicy): Filter {
  const included = compile(policy.include)
  const excluded = compile(policy.exclude)
  const temporary = compile(policy.tempPatterns)
  return {
    file(relative, sizeBytes) {
      const name = relative.slice(relative.lastIndexOf('/') + 1)
      if (name.startsWith(OWN_PREFIX)) return { kind: 'ignored', reason: 'a working file of Longshore' }
      if (policy.marker && isMarker(policy.marker, name)) return { kind: 'ignored', reason: 'a marker' }
      const temp = temporary(name, relative)
      if (temp !== undefined) return { kind: 'ignored', reason: `a temporary name, by ${quoted(temp)}` }
      if (policy.include.length > 0 && included(name, relative) === undefined) {
        return { kind: 'ignored', reason: `not matched by include, ${quoted(policy.include.join(' '))}` }
      }
      const exclusion = excluded(name, relative)
      if (exclusion !== undefined) return { kind: 'ignored', reason: `matched by exclude, ${quoted(exclusion)}` }
      if (sizeBytes === 0 && policy.emptyFiles === 'skip') return { kind: 'skipped', reason: 'empty' }
      if (policy.maxSize !== null && sizeBytes > policy.maxSize) {
        return { kind: 'skipped', reason: `too large: ${sizeBytes} bytes, maxSize is ${policy.maxSize}` }
      }
      return { kind: 'taken' }
    }
  }
}

/** Patterns may be long; the beginning is enough to find them. */
function quoted(patterns: string): string {
  return patterns.length > 120 ? `\`${patterns.slice(0, 120)}…\`` : `\`${patterns}\``
}
