/**
 * Some of the documents of a store in the order of their fields, so that the first few of a backlog are read without a
 * look at the rest: what a claim costs does not grow with what waits.
 *
 * It serves queries that say the same of the fields of `only`, hold the first of the other fields equal, and sort by the
 * next one, upwards.
 */
import sortedBtree from 'sorted-btree'
import type { Document, FindOptions, Query } from './collection.ts'
import { compare, isScalar, matcher, reader } from './query.ts'

type Key = readonly unknown[]

/** Comes after every value. */
const AFTER = Symbol('after')

export interface OrderedIndexOptions {
  /** The documents that are held: each field equal to a value. */
  only: Query
  /** What orders them; those of `only` are left out. */
  fields: string[]
}

export class OrderedIndex<T extends Document> {
  readonly #only: Query
  readonly #isHeld: (document: object) => boolean
  readonly #fields: string[]
  readonly #readers: ((document: object) => unknown)[]
  readonly #tree = new sortedBtree.default<Key, T>(undefined, compareKeys)

  constructor({ only, fields }: OrderedIndexOptions) {
    this.#only = only
    this.#isHeld = matcher(only)
    this.#fields = fields.filter((field) => !Object.hasOwn(only, field))
    this.#readers = this.#fields.map(reader)
  }

  insert(document: T): void {
    if (this.#isHeld(document)) this.#tree.set(this.#keyOf(document), document)
  }

  remove(document: T): void {
    if (this.#isHeld(document)) this.#tree.delete(this.#keyOf(document))
  }

  /** The documents among which all matches are, in the order that is asked for; null where this index cannot tell. */
  inOrder(query: Query, sort: NonNullable<FindOptions['sort']>): Iterable<T> | null {
    const isSame = Object.entries(this.#only).every(([field, value]) => query[field] === value)
    if (!isSame) return null
    const equals: unknown[] = []
    for (const field of this.#fields) {
      if (Object.hasOwn(query, field) && isScalar(query[field])) {
        equals.push(query[field])
        continue
      }
      const isSorted = Object.keys(sort).length === 1 && sort[field] === 1
      return isSorted ? this.#between(equals, boundsOf(query[field])) : null
    }
    return null
  }

  *#between(equals: Key, { low, high }: { low: Key; high: unknown }): Generator<T> {
    const at = equals.length
    for (const [key, document] of this.#tree.entries([...equals, ...low])) {
      if (equals.some((value, index) => key[index] !== value)) return
      if (high !== undefined && compare(key[at], high) > 0) return
      yield document
    }
  }

  #keyOf(document: T): Key {
    return [...this.#readers.map((read) => read(document)), document._id]
  }
}

/** A key that is shorter than another one, and equal as far as it goes, comes before it. */
function compareKeys(a: Key, b: Key): number {
  const length = Math.min(a.length, b.length)
  for (let index = 0; index < length; index++) {
    if (a[index] === AFTER || b[index] === AFTER) return a[index] === AFTER ? 1 : -1
    const order = compare(a[index], b[index])
    if (order !== 0) return order
  }
  return a.length - b.length
}

/** Where to begin, and the last value that may still match. Each document is tested all the same. */
function boundsOf(wanted: unknown): { low: Key; high: unknown } {
  const { $gt, $gte, $lt, $lte } = (wanted ?? {}) as Record<string, unknown>
  const low = $gt === undefined ? ($gte === undefined ? [] : [$gte]) : [$gt, AFTER]
  return { low, high: $lte ?? $lt }
}
