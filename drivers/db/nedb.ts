/**
 * `Collection` on NeDB: the embedded database, for development and demos, one process.
 *
 * NeDB works in memory, one operation after the other, and appends every change to a file. So one `update` on
 * `_id` and `revision` is a compare-and-set. Appends are not fsynced: a power cut can lose the last seconds, a
 * killed process loses nothing.
 *
 * What it cannot hold: keys of nested objects that contain a `.` or start with `$` (refused with INVALID). Values
 * may hold anything. Unlike in MongoDB, `{ field: null }` does not match a document without the field: use `$exists`.
 */
import { access, constants } from 'node:fs/promises'
import { isDeepStrictEqual } from 'node:util'
import type Nedb from '@seald-io/nedb'
import { errorType, IngestError } from '../../domain/errors.ts'
import type { Collection, Document, FindOptions, Index, Query } from './collection.ts'

/** NeDB's types describe an ES module; the package is the class itself. */
export type Datastore = Nedb.default

/** NeDB checks `$in` by a linear scan per candidate; small portions keep 10,000 ids from taking 10^8 steps. */
const idsAtOnce = 200
const insertsAtOnce = 500

/**
 * The collection of a loaded store, with its indexes. `check` throws while the store must not be touched (its
 * folder belongs to another process); it is asked before every operation.
 */
export async function nedbCollection<T extends Document>(
  store: Datastore,
  indexes: Index[],
  check: () => void = () => {}
): Promise<Collection<T>> {
  for (const index of indexes) await ensureIndex(store, index)

  async function guarded<R>(operation: () => PromiseLike<R>): Promise<R> {
    try {
      check()
      return await operation()
    } catch (error) {
      throw storeError(error)
    }
  }

  let isTorn = false
  /** Rewrites the file from memory, after an append that failed. */
  async function mend(): Promise<void> {
    if (!isTorn) return
    await store.compactDatafileAsync()
    isTorn = false
  }

  /**
   * NeDB changes its memory first and the file after. An append that failed (disk full) may have left half a line, to
   * which the next one would be glued, and memory is ahead of the file: both are mended before the next write.
   */
  async function write<R>(operation: () => Promise<R>): Promise<R> {
    await mend()
    try {
      return await operation()
    } catch (error) {
      isTorn ||= !isUniqueViolation(error) && !isBadKey(error)
      throw error
    }
  }

  async function insertOne(document: T): Promise<boolean> {
    try {
      await write(() => store.insertAsync(document))
      return true
    } catch (error) {
      if (isUniqueViolation(error)) return false
      throw error
    }
  }

  async function replaceOne(from: T, to: T): Promise<boolean> {
    const changes = changedFields(from, to)
    // NeDB takes the values of $set over by reference: a caller that changed `to` later would change the database.
    const set = structuredClone(changes.set)
    const update = {
      $set: { ...set, revision: from.revision + 1 },
      ...(changes.unset.length > 0 ? { $unset: Object.fromEntries(changes.unset.map((key) => [key, true])) } : {})
    }
    const result = await write(() => store.updateAsync({ _id: from._id, revision: from.revision }, update))
    return result.numAffected === 1
  }

  return {
    insertNew: (documents) =>
      guarded(async () => {
        const inserted = new Set<string>()
        for (const portion of portions(documents.map(withoutUndefined), insertsAtOnce)) {
          try {
            // All or nothing, and one append instead of hundreds: a first listing is mostly new.
            await write(() => store.insertAsync(portion))
            for (const document of portion) inserted.add(document._id)
          } catch (error) {
            if (!isUniqueViolation(error)) throw error
            const results = await allDone(portion.map(insertOne))
            portion.forEach((document, i) => {
              if (results[i]) inserted.add(document._id)
            })
          }
        }
        return inserted
      }),
    replaceEach: (pairs) => guarded(() => allDone(pairs.map(({ from, to }) => replaceOne(from, to)))),
    find: (query: Query, options: FindOptions = {}) =>
      guarded(() => {
        const projection = Object.fromEntries((options.omit ?? []).map((field) => [field, 0]))
        const cursor = store.findAsync<T>(query, projection)
        if (options.sort) cursor.sort(options.sort)
        if (options.limit) cursor.limit(options.limit)
        return cursor as unknown as Promise<T[]>
      }),
    findByIds: (ids) =>
      guarded(async () => {
        const found: T[] = []
        for (const portion of portions([...new Set(ids)], idsAtOnce)) {
          found.push(...(await (store.findAsync<T>({ _id: { $in: portion } }) as unknown as Promise<T[]>)))
        }
        return found
      }),
    count: (query) => guarded(() => store.countAsync(query) as unknown as Promise<number>),
    totals: (query) =>
      guarded(async () => {
        const totals: Record<string, { count: number; bytes: number }> = {}
        const rows = await (store.findAsync(query, { status: 1, size: 1 }) as unknown as Promise<Summed[]>)
        for (const { status, size } of rows) {
          if (typeof status !== 'string') continue
          totals[status] ??= { count: 0, bytes: 0 }
          totals[status].count++
          if (typeof size === 'number') totals[status].bytes += size
        }
        return totals
      }),
    removeByIds: (ids) =>
      guarded(async () => {
        let removed = 0
        for (const portion of portions(ids, idsAtOnce)) {
          removed += await write(() => store.removeAsync({ _id: { $in: portion } }, { multi: true }))
        }
        return removed
      }),
    ping: () =>
      guarded(async () => {
        await mend()
        const { filename } = store as unknown as { filename: string | null }
        if (filename) await access(filename, constants.R_OK | constants.W_OK)
      })
  }
}

interface Summed {
  status?: unknown
  size?: unknown
}

/** The top-level fields in which `to` differs from `from`, beside `_id` and `revision`; `unset` are those that `to` lacks. */
export function changedFields<T extends Document>(from: T, to: T): { set: Record<string, unknown>; unset: string[] } {
  const set: Record<string, unknown> = {}
  const unset: string[] = []
  const [before, after] = [from as unknown as Record<string, unknown>, to as unknown as Record<string, unknown>]
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    if (key === '_id' || key === 'revision' || isDeepStrictEqual(before[key], after[key])) continue
    if (after[key] === undefined) unset.push(key)
    else set[key] = after[key]
  }
  return { set, unset }
}

/** The results in order; rejects with the first error, but only once nothing is in flight any more. */
export async function allDone<R>(promises: Promise<R>[]): Promise<R[]> {
  const settled = await Promise.allSettled(promises)
  return settled.map((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}

async function ensureIndex(store: Datastore, index: Index): Promise<void> {
  const fields = Object.keys(index.fields)
  // A compound index of NeDB serves equality on all its fields only; one on the first field narrows ranges too.
  const fieldName = index.unique ? fields : fields[0]!
  if (fieldName === '_id') return
  await store.ensureIndexAsync({ fieldName, unique: index.unique ?? false, sparse: index.partial !== undefined })
}

function* portions<R>(items: R[], size: number): Generator<R[]> {
  for (let i = 0; i < items.length; i += size) yield items.slice(i, i + size)
}

function withoutUndefined<T extends object>(document: T): T {
  return Object.fromEntries(Object.entries(document).filter(([, value]) => value !== undefined)) as T
}

function isUniqueViolation(error: unknown): boolean {
  return (error as { errorType?: unknown }).errorType === 'uniqueViolated'
}

function isBadKey(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('Field names cannot')
}

function storeError(error: unknown): Error {
  if (errorType(error) !== 'INTERNAL') return error as Error
  const message = error instanceof Error ? error.message : String(error)
  if (isUniqueViolation(error)) return new IngestError('CONFLICT', 'a unique key is taken', { cause: error })
  if (isBadKey(error)) return new IngestError('INVALID', message, { cause: error })
  const isOfFile = typeof (error as NodeJS.ErrnoException).code === 'string' || message.startsWith('Failed to flush')
  if (!isOfFile) return error as Error
  return new IngestError('DATABASE_UNAVAILABLE', `the database file cannot be used: ${message}`, { cause: error })
}
