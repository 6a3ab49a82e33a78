/**
 * A database in memory: unique indexes, and a compare-and-set on one document at a time, as MongoDB has them. A batch is
 * no transaction: a fault in the middle leaves the first half written. Documents are frozen, and
 * shared with their readers.
 */
import { isDeepStrictEqual } from 'node:util'
import { IngestError } from '../../domain/errors.ts'
import { changedFields } from '../../drivers/db/changes.ts'
import type { Collection, Document, FindOptions, Index, Query } from '../../drivers/db/collection.ts'
import type { Database } from '../../drivers/db/database.ts'
import type { Life, World } from './world.ts'

interface Unique {
  fields: string[]
  holders: Map<string, string>
}

export class SimulatedCollection<T extends Document> {
  readonly documents = new Map<string, T>()
  readonly #uniques: Unique[] = []
  onWrite: (before: T | undefined, after: T) => void = () => {}

  ensure(indexes: Index[]): void {
    if (this.#uniques.length > 0) return
    for (const { fields, unique } of indexes) {
      if (unique) this.#uniques.push({ fields: Object.keys(fields), holders: new Map() })
    }
  }

  isTaken(document: T): boolean {
    return this.#uniques.some(({ fields, holders }) => {
      const holder = holders.get(keyOf(document, fields) ?? '')
      return holder !== undefined && holder !== document._id
    })
  }

  insert(document: T): boolean {
    if (this.documents.has(document._id) || this.isTaken(document)) return false
    this.#put(document)
    return true
  }

  replace(from: T, to: T): boolean {
    const stored = this.documents.get(from._id)
    if (stored?.revision !== from.revision) return false
    if (this.isTaken(to)) throw new IngestError('CONFLICT', 'a unique key is taken')
    const revision = from.revision + 1
    if (from === stored) this.#put({ ...to, revision })
    else {
      const { set, unset } = changedFields(from, to)
      const kept = Object.entries(stored).filter(([field]) => !unset.includes(field))
      this.#put({ ...Object.fromEntries(kept), ...set, revision } as unknown as T)
    }
    return true
  }

  remove(id: string): boolean {
    this.#forget(id)
    return this.documents.delete(id)
  }

  find(query: Query, { sort, limit, omit }: FindOptions = {}): T[] {
    let found: T[] = []
    for (const document of this.documents.values()) if (matches(document, query)) found.push(document)
    if (sort) found.sort((a, b) => inOrder(a, b, sort))
    if (limit) found = found.slice(0, limit)
    return omit?.length ? found.map((document) => without(document, omit)) : found
  }

  #forget(id: string): void {
    const before = this.documents.get(id)
    for (const { fields, holders } of before ? this.#uniques : []) holders.delete(keyOf(before!, fields) ?? '')
  }

  #put(given: T): void {
    const document = frozen(given)
    const before = this.documents.get(document._id)
    this.#forget(document._id)
    this.documents.set(document._id, document)
    for (const { fields, holders } of this.#uniques) {
      const key = keyOf(document, fields)
      if (key !== null) holders.set(key, document._id)
    }
    this.onWrite(before, document)
  }
}

export class SimulatedDatabase {
  readonly #world: World
  readonly #collections = new Map<string, SimulatedCollection<Document>>()

  constructor(world: World) {
    this.#world = world
  }

  collection<T extends Document>(name: string): SimulatedCollection<T> {
    const known = this.#collections.get(name) ?? new SimulatedCollection<Document>()
    this.#collections.set(name, known)
    return known as unknown as SimulatedCollection<T>
  }

  /** What a process has of it. */
  open(life: Life): Database {
    return {
      kind: 'mongodb',
      adapter: (name) => ({ name, init() {}, async connect() {} }) as never,
      collection: async <T extends Document>(adapter: unknown, indexes: Index[]) => {
        const { name } = adapter as { name: string }
        const collection = this.collection<T>(name)
        collection.ensure(indexes)
        return driver(this.#world, life, name, collection)
      },
      ping: () => ask(this.#world, life, 'ping', () => undefined),
      async close() {}
    }
  }
}

function ask<R>(world: World, life: Life, what: string, effect: () => R, takesMs = 0): Promise<R> {
  const failure = (message: string) => new IngestError('DATABASE_UNAVAILABLE', message)
  return world.ask(life, { backend: 'database', what, effect, failure, takesMs })
}

function driver<T extends Document>(
  world: World,
  life: Life,
  name: string,
  collection: SimulatedCollection<T>
): Collection<T> {
  /** A batch, or its first part only: then the caller never learns how far it came. */
  const batch = <I>(what: string, items: I[], write: (item: I) => boolean): Promise<boolean[]> => {
    const isCut = items.length > 1 && world.isFaulty && world.random.chance(world.plan.errors.database)
    const some = isCut ? items.slice(0, world.random.whole(0, items.length - 1)) : items
    // A write that is late meets what others wrote meanwhile.
    const isLate = world.isFaulty && world.random.chance(3 * world.plan.slow)
    const lateMs = () => world.random.between(500, what === 'insertNew' ? 25_000 : 6_000)
    const writeAll = () => {
      let isTaken = false
      const written = some.map((item) => {
        try {
          return write(item)
        } catch {
          isTaken = true
          return false
        }
      })
      if (isCut) throw new IngestError('DATABASE_UNAVAILABLE', 'the batch was cut')
      if (isTaken) throw new IngestError('CONFLICT', 'a unique key is taken', { data: { written } })
      return written
    }
    return ask(world, life, `${name}.${what}`, writeAll, isLate ? lateMs() : 0)
  }
  return {
    insertNew: async (documents) => {
      if (documents.length === 0) return new Set()
      const inserted = await batch('insertNew', documents, (one) => collection.insert(one))
      return new Set(documents.filter((_, index) => inserted[index]).map(({ _id }) => _id))
    },
    replaceEach: async (pairs) => {
      if (pairs.length === 0) return []
      const what = world.trace ? `replaceEach ${pairs.map(shown).join(', ')}` : 'replaceEach'
      let isTaken = false
      const written = await batch(what, pairs, ({ from, to }) => {
        try {
          return collection.replace(from, to)
        } catch (error) {
          if ((error as IngestError).type !== 'CONFLICT') throw error
          isTaken = true
          return false
        }
      })
      if (isTaken) throw new IngestError('CONFLICT', 'a unique key is taken', { data: { written } })
      return written
    },
    find: (query, options) => ask(world, life, `${name}.find`, () => collection.find(query, options)),
    findByIds: async (ids) => {
      if (ids.length === 0) return []
      const find = () => [...new Set(ids)].flatMap((id) => collection.documents.get(id) ?? [])
      return ask(world, life, `${name}.findByIds`, find)
    },
    count: (query) => ask(world, life, `${name}.count`, () => collection.find(query).length),
    totals: (query) =>
      ask(world, life, `${name}.totals`, () => {
        const totals: Record<string, { count: number; bytes: number }> = {}
        for (const document of collection.find(query) as unknown as { status: string; size: number }[]) {
          const { count, bytes } = totals[document.status] ?? { count: 0, bytes: 0 }
          totals[document.status] = { count: count + 1, bytes: bytes + document.size }
        }
        return totals
      }),
    removeByIds: (ids) =>
      ask(world, life, `${name}.removeByIds`, () => ids.filter((id) => collection.remove(id)).length),
    ping: () => ask(world, life, `${name}.ping`, () => undefined)
  }
}

function shown({ from, to }: { from: Document; to: Document }): string {
  const [before, after] = [from, to] as unknown as { status?: string; path?: string; epoch?: number }[]
  return `${after!.path ?? to._id} ${before!.status ?? ''}>${after!.status ?? ''} epoch ${after!.epoch ?? '-'}`
}

/** A copy of what the caller may still change; what is frozen came from here and is shared. */
function frozen<V>(value: V): V {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  if (Array.isArray(value)) return Object.freeze(value.map(frozen)) as V
  const copy: Record<string, unknown> = {}
  for (const [field, inner] of Object.entries(value)) if (inner !== undefined) copy[field] = frozen(inner)
  return Object.freeze(copy) as V
}

function without<T extends object>(document: T, omit: string[]): T {
  const copy = { ...document }
  for (const field of omit) delete copy[field as keyof T]
  return copy
}

/** null where a field is missing: such a document is in no unique index. */
function keyOf(document: object, fields: string[]): string | null {
  const values = fields.map((field) => valueAt(document, field))
  return values.includes(undefined) ? null : JSON.stringify(values)
}

function valueAt(document: object, path: string): unknown {
  if (!path.includes('.')) return (document as Record<string, unknown>)[path]
  return path.split('.').reduce<unknown>((at, field) => (at as Record<string, unknown> | null)?.[field], document)
}

function inOrder(a: object, b: object, sort: Record<string, 1 | -1>): number {
  for (const field in sort) {
    const [left, right] = [valueAt(a, field) as number, valueAt(b, field) as number]
    if (left < right) return -sort[field]!
    if (left > right) return sort[field]!
  }
  return 0
}

function matches(document: object, query: Query): boolean {
  for (const field in query) {
    const wanted = query[field]
    if (field === '$and') {
      if (!(wanted as Query[]).every((one) => matches(document, one))) return false
    } else if (field === '$or') {
      if (!(wanted as Query[]).some((one) => matches(document, one))) return false
    } else if (!fits(valueAt(document, field), wanted)) return false
  }
  return true
}

function fits(value: unknown, wanted: unknown): boolean {
  if (typeof wanted !== 'object' || wanted === null) {
    if (value === wanted || (wanted === null && value === undefined)) return true
    return Array.isArray(value) && value.includes(wanted)
  }
  if (wanted instanceof RegExp) return typeof value === 'string' && wanted.test(value)
  const isOperators = Object.keys(wanted)[0]?.startsWith('$')
  if (!isOperators) return isDeepStrictEqual(value, wanted)
  return Object.entries(wanted).every(([operator, operand]) => holds(operator, value, operand))
}

function holds(operator: string, value: unknown, operand: unknown): boolean {
  const isComparable = value !== null && typeof value === typeof operand
  const [left, right] = [value as number, operand as number]
  switch (operator) {
    case '$in':
      return (operand as unknown[]).includes(value)
    case '$nin':
      return !(operand as unknown[]).includes(value)
    case '$ne':
      return value !== operand
    case '$exists':
      return (value !== undefined) === operand
    case '$lt':
      return isComparable && left < right
    case '$lte':
      return isComparable && left <= right
    case '$gt':
      return isComparable && left > right
    case '$gte':
      return isComparable && left >= right
  }
  throw new Error(`the simulated database does not know ${operator}`)
}
