/** A collection in memory. Every operation yields first, so that concurrent callers meet in between. */
import { setImmediate as yielded } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { IngestError } from '../../domain/errors.ts'
import type { Collection, Document, Index, Query } from '../../drivers/db/collection.ts'
import { changedFields } from '../../drivers/db/nedb.ts'

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

  function matching(query: Query): T[] {
    return [...documents.values()].filter((document) => matches(document, query))
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
      if (conflict) throw new IngestError('CONFLICT', 'a unique key is taken')
      return written
    },
    async find(query, { sort = {}, limit, omit = [] } = {}) {
      await yielded()
      const found = matching(query).sort((a, b) => {
        for (const [field, direction] of Object.entries(sort)) {
          const order = compare(valuesAt(a, field)[0], valuesAt(b, field)[0])
          if (order !== 0) return order * direction
        }
        return 0
      })
      return found.slice(0, limit || undefined).map((document) => {
        const entries = Object.entries(copyOf(document)).filter(([field]) => !omit.includes(field))
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
  const values = fields.map((field) => valuesAt(document, field)[0])
  return values.includes(undefined) ? null : JSON.stringify(values)
}

function copyOf<T extends object>(document: T): T {
  return structuredClone(Object.fromEntries(Object.entries(document).filter(([, value]) => value !== undefined))) as T
}

/** The value of a path such as `announcement.status`; of an array its items too. */
function valuesAt(document: object, path: string): unknown[] {
  const value = path
    .split('.')
    .reduce<unknown>((at, field) => (at as Record<string, unknown> | null)?.[field], document)
  return Array.isArray(value) ? [value, ...value] : [value]
}

function matches(document: object, query: Query): boolean {
  return Object.entries(query).every(([field, wanted]) => {
    if (field === '$and') return (wanted as Query[]).every((one) => matches(document, one))
    if (field === '$or') return (wanted as Query[]).some((one) => matches(document, one))
    const values = valuesAt(document, field)
    if (wanted instanceof RegExp) return values.some((value) => typeof value === 'string' && wanted.test(value))
    const isOperators = typeof wanted === 'object' && wanted !== null && Object.keys(wanted)[0]?.startsWith('$')
    if (!isOperators) return values.some((value) => isDeepStrictEqual(value, wanted))
    return Object.entries(wanted).every(([operator, operand]) => holds(operator, values, operand))
  })
}

function holds(operator: string, values: unknown[], operand: unknown): boolean {
  const some = (check: (value: unknown) => boolean) => values.some(check)
  const ordered = (check: (order: number) => boolean) =>
    some((value) => value !== null && typeof value === typeof operand && check(compare(value, operand)))
  switch (operator) {
    case '$in':
      return some((value) => (operand as unknown[]).includes(value))
    case '$ne':
      return !some((value) => isDeepStrictEqual(value, operand))
    case '$exists':
      return (values[0] !== undefined) === operand
    case '$lt':
      return ordered((order) => order < 0)
    case '$lte':
      return ordered((order) => order <= 0)
    case '$gt':
      return ordered((order) => order > 0)
    case '$gte':
      return ordered((order) => order >= 0)
  }
  throw new Error(`the memory collection does not know ${operator}`)
}

function compare(a: unknown, b: unknown): number {
  return (a as number) < (b as number) ? -1 : (a as number) > (b as number) ? 1 : 0
}
