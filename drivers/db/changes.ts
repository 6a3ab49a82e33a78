/** What a write changes of a document, and documents as the embedded database keeps them. */
import { isDeepStrictEqual } from 'node:util'
import { IngestError } from '../../domain/errors.ts'
import type { Document } from './collection.ts'

/** The top-level fields in which `to` differs from `from`, beside `_id` and `revision`; `unset` are those that `to` lacks. */
export function changedFields<T extends Document>(from: T, to: T): { set: Record<string, unknown>; unset: string[] } {
  const set: Record<string, unknown> = {}
  const unset: string[] = []
  const [before, after] = [from as unknown as Record<string, unknown>, to as unknown as Record<string, unknown>]
  for (const key in after) {
    if (key === '_id' || key === 'revision' || isSame(before[key], after[key])) continue
    if (after[key] === undefined) unset.push(key)
    else set[key] = after[key]
  }
  for (const key in before) if (!Object.hasOwn(after, key) && before[key] !== undefined) unset.push(key)
  return { set, unset }
}

/** Most fields are the very same value: a change of state copies a record and replaces a few. */
function isSame(a: unknown, b: unknown): boolean {
  return a === b || (typeof a === 'object' && typeof b === 'object' && isDeepStrictEqual(a, b))
}

/**
 * A deep copy of what JSON can say; fields that are undefined are left out. Spread first: a copy that is built key by
 * key becomes a hash table, which takes twice the memory.
 */
export function copyOf<V>(value: V): V {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(copyOf) as V
  const copy = { ...value }
  for (const key in copy) {
    const inner = copy[key]
    if (inner === undefined) delete copy[key]
    else if (typeof inner === 'object' && inner !== null) copy[key] = copyOf(inner)
  }
  return copy
}

/** INVALID for a key, at any depth, that NeDB's file cannot hold. */
export function refuseKeys(value: unknown): void {
  if (typeof value !== 'object' || value === null) return
  if (Array.isArray(value)) {
    for (const inner of value) refuseKeys(inner)
    return
  }
  for (const key in value) {
    if (key.startsWith('$') || key.includes('.')) {
      throw new IngestError('INVALID', `field names cannot begin with $ or contain a dot: ${JSON.stringify(key)}`)
    }
    refuseKeys((value as Record<string, unknown>)[key])
  }
}
