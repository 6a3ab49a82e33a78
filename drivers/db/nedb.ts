/**
 * `Collection` on NeDB: the embedded database, for development and demos, one process.
 *
 * NeDB keeps its documents in memory and appends every change to a file. A change of a document is looked at and made
 * in one step, so it is a compare-and-set; how changes come into the file is told in nedb-store.ts. Appends are not
 * fsynced: a power cut can lose the last seconds, a killed process loses nothing.
 *
 * What it cannot hold: keys of nested objects that contain a `.` or start with `$` (refused with INVALID). Values
 * may hold anything. Unlike in MongoDB, `{ field: null }` does not match a document without the field: use `$exists`.
 */
import { errorType, IngestError } from '../../domain/errors.ts'
import { changedFields, copyOf, refuseKeys } from './changes.ts'
import type { Collection, Document, FindOptions, Index, Query } from './collection.ts'
import { type Datastore, storeOf } from './nedb-store.ts'

/**
 * The collection of a loaded store, with its indexes. `check` throws while the store must not be touched (its
 * folder belongs to another process); it is asked before every operation.
 */
export async function nedbCollection<T extends Document>(
  datastore: Datastore,
  indexes: Index[],
  check: () => void = () => {}
): Promise<Collection<T>> {
  const store = storeOf<T>(datastore)
  for (const index of indexes) store.ensureIndex(index)

  async function guarded<R>(operation: () => Promise<R>): Promise<R> {
    try {
      check()
      return await operation()
    } catch (error) {
      throw storeError(error)
    }
  }

  /** The line that puts the pair into the file; null where somebody was faster. Throws CONFLICT. */
  function replaceOne(from: T, to: T): string | null {
    const stored = store.get(from._id)
    if (!stored || stored.revision !== from.revision) return null
    const { set, unset } = changedFields(from, to)
    refuseKeys(set)
    const next: T = { ...stored, ...copyOf(set), revision: from.revision + 1 }
    for (const key of unset) delete (next as Record<string, unknown>)[key]
    if (store.isTaken(next)) throw new IngestError('CONFLICT', 'a unique key is taken')
    return store.replace(stored, next)
  }

  return {
    insertNew: (documents) =>
      guarded(() => {
        refuseKeys(documents)
        return store.write(() => {
          const inserted = new Set<string>()
          const lines: string[] = []
          for (const document of documents.map(copyOf)) {
            if (store.isTaken(document) || store.get(document._id)) continue
            lines.push(store.insert(document))
            inserted.add(document._id)
          }
          return { lines, answer: inserted }
        })
      }),
    replaceEach: (pairs) =>
      guarded(async () => {
        const { written, failure } = await store.write(() => {
          let failed: unknown = null
          const lines = pairs.map(({ from, to }) => {
            try {
              return replaceOne(from, to)
            } catch (error) {
              failed ??= error
              return null
            }
          })
          const answer = { written: lines.map((line) => line !== null), failure: failed }
          return { lines: lines.filter((line) => line !== null), answer }
        })
        if (failure === null) return written
        if (errorType(failure) !== 'CONFLICT') throw failure
        throw new IngestError('CONFLICT', 'a unique key is taken', { data: { written } })
      }),
    find: (query: Query, options: FindOptions = {}) =>
      guarded(() => {
        const omitted = new Set(options.omit)
        return store.read(() => store.find(query, options).map((document) => copyWithout(document, omitted)))
      }),
    findByIds: (ids) =>
      guarded(() => store.read(() => [...new Set(ids)].flatMap((id) => store.get(id) ?? []).map(copyOf))),
    count: (query) => guarded(() => store.read(() => store.find(query).length)),
    totals: (query) =>
      guarded(() =>
        store.read(() => {
          const totals: Record<string, { count: number; bytes: number }> = {}
          for (const { status, size } of store.find(query) as Summed[]) {
            if (typeof status !== 'string') continue
            totals[status] ??= { count: 0, bytes: 0 }
            totals[status].count++
            if (typeof size === 'number') totals[status].bytes += size
          }
          return totals
        })
      ),
    removeByIds: (ids) =>
      guarded(() =>
        store.write(() => {
          const there = [...new Set(ids)].flatMap((id) => store.get(id) ?? [])
          return { lines: there.map((document) => store.remove(document)), answer: there.length }
        })
      ),
    ping: () => guarded(() => store.checkFile())
  }
}

interface Summed {
  status?: unknown
  size?: unknown
}

function copyWithout<T extends object>(document: T, omitted: Set<string>): T {
  if (omitted.size === 0) return copyOf(document)
  return copyOf(Object.fromEntries(Object.entries(document).filter(([field]) => !omitted.has(field)))) as T
}

function storeError(error: unknown): Error {
  if (errorType(error) !== 'INTERNAL') return error as Error
  const message = error instanceof Error ? error.message : String(error)
  const isOfFile = typeof (error as NodeJS.ErrnoException).code === 'string' || message.startsWith('Failed to flush')
  if (!isOfFile) return error as Error
  return new IngestError('DATABASE_UNAVAILABLE', `the database file cannot be used: ${message}`, { cause: error })
}
