/** A collection in memory. Every operation yields first, so that concurrent callers meet in between. */
import { setImmediate as yielded } from 'node:timers/promises'
import { IngestError } from '../../domain/errors.ts'
import { changedFields, copyOf } from '../../drivers/db/changes.ts'
import type { Collection, Document, FindOptions, Index, Query } from '../../drivers/db/collection.ts'
import { reader, select } from '../../drivers/db/query.ts'

export function memoryCollection<T extends Document>(indexes: Index[] = []): Collection<T> {
  const documents = new Map<string, T>()
  /** Each unique index: its fields, and which document has which values. */
  const uniques = indexes
    .filter((index) => index.unique)
    .map((index) => ({ fields: Object.keys(index.fields), holders: new Map<string, string>() }))

  /** Whether another document holds a unique key of this one. */
  function isTaken(document: T): boolean {
    return uniques.some(({ fields, holders }) => {
      const holder = holders.get(keyOf(document, fields) ?? '')
      return holder !== undefined && holder !== document._id
    })
  }

  function drop(id: string): boolean {
    const before = documents.get(id)
    for (const { fields, holders } of before ? uniques : []) holders.delete(keyOf(before!, fields) ?? '')
    return documents.delete(id)
  }

  function put(document: T): void {
    const place = documents.get(document._id)
    if (place) for (const { fields, holders } of uniques) holders.delete(keyOf(place, fields) ?? '')
    documents.set(document._id, copyOf(document))
    for (const { fields, holders } of uniques) {
      const key = keyOf(document, fields)
      if (key !== null) holders.set(key, document._id)
    }
  }

  function matching(query: Query, options?: FindOptions): T[] {
    return select(documents.values(), query, options)
  }

  return {
    async insertNew(given) {
      await yielded()
      const inserted = new Set<string>()
      for (const document of given) {
        if (documents.has(document._id) || isTaken(document)) continue
        put(document)
        inserted.add(document._id)
      }
      return inserted
    },
    async replaceEach(pairs) {
      await yielded()
      let conflict = false
      const written = pairs.map(({ from, to }) => {
        if (documents.get(from._id)?.revision !== from.revision) return false
        conflict ||= isTaken(to)
        if (isTaken(to)) return false
        const { set, unset } = changedFields(from, to)
        const kept = Object.entries(documents.get(from._id)!).filter(([field]) => !unset.includes(field))
        const next = { ...Object.fromEntries(kept), ...set, revision: from.revision + 1 } as unknown as T
        put(next)
        return true
      })
      if (conflict) throw new IngestError('CONFLICT', 'a unique key is taken', { data: { written } })
      return written
    },
    async find(query, options = {}) {
      await yielded()
      return matching(query, options).map((document) => {
        const entries = Object.entries(copyOf(document)).filter(([field]) => !options.omit?.includes(field))
        return Object.fromEntries(entries) as unknown as T
      })
    },
    async findByIds(ids) {
      await yielded()
      return [...new Set(ids)].flatMap((id) => documents.get(id) ?? []).map(copyOf)
    },
    async count(query) {
      await yielded()
      return matching(query).length
    },
    async totals(query) {
      await yielded()
      const totals: Record<string, { count: number; bytes: number }> = {}
      for (const document of matching(query) as unknown as { status?: string; size?: number }[]) {
        if (document.status === undefined) continue
        const { count, bytes } = totals[document.status] ?? { count: 0, bytes: 0 }
        totals[document.status] = { count: count + 1, bytes: bytes + (document.size ?? 0) }
      }
      return totals
    },
    async removeByIds(ids) {
      await yielded()
      return ids.filter(drop).length
    },
    async ping() {}
  }
}

/** null where a field is missing: such a document is in no unique index. */
function keyOf(document: object, fields: string[]): string | null {
  const values = fields.map((field) => reader(field)(document))
  return values.includes(undefined) ? null : JSON.stringify(values)
}
