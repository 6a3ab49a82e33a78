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

type Matcher = (name: string, relative: string) => boolean

/** A pattern without a slash matches the name, one with a slash the path below the root. A bad pattern throws. */
function compile(patterns: string[]): Matcher {
  const compiled = patterns.map((pattern) => ({
    byPath: pattern.includes('/'),
    matches: compileGlob(pattern.replace(/^\//, ''))
  }))
  return (name, relative) => compiled.some((pattern) => pattern.matches(pattern.byPath ? relative : name))
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
      if (temporary(name, relative)) return { kind: 'ignored', reason: 'a temporary name' }
      if (policy.include.length > 0 && !included(name, relative)) {
        return { kind: 'ignored', reason: 'not matched by include' }
      }
      if (excluded(name, relative)) return { kind: 'ignored', reason: 'matched by exclude' }
      if (sizeBytes === 0 && policy.emptyFiles === 'skip') return { kind: 'skipped', reason: 'empty' }
      if (policy.maxSize !== null && sizeBytes > policy.maxSize) {
        return { kind: 'skipped', reason: `too large: ${sizeBytes} bytes, maxSize is ${policy.maxSize}` }
      }
      return { kind: 'taken' }
    }
  }
}
