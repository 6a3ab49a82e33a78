/**
 * An index of hashes in the place of NeDB's sorted trees, with what NeDB asks of an index. A tree keeps all documents
 * of one value in one list, and looks through that list at each change of one of them: with a hundred thousand files
 * of one server each change of a file would cost a hundred thousand steps. Here it costs one, whatever the value.
 *
 * It serves equality only. NeDB tests each candidate anyway, so for a range it may be given them all.
 */
import type { Document } from './collection.ts'
import { reader } from './query.ts'

export interface IndexOptions {
  fields: string[]
  unique: boolean
  /** Documents that lack the fields are not in the index. */
  sparse: boolean
}

export class HashIndex<T extends Document> {
  /** As NeDB names it, and writes it into its file. */
  readonly fieldName: string
  readonly unique: boolean
  readonly sparse: boolean
  readonly #readers: ((document: object) => unknown)[]
  readonly #buckets = new Map<unknown, Set<T>>()
  /** Of a unique index: one document a value, without a set around each. */
  readonly #holders = new Map<unknown, T>()

  constructor({ fields, unique, sparse }: IndexOptions) {
    this.fieldName = fields.toSorted().join(',')
    this.unique = unique
    this.sparse = sparse
    this.#readers = fields.map(reader)
  }

  /** Whether another document holds this one's value. */
  isTaken(document: T): boolean {
    if (!this.unique) return false
    const holder = this.#holders.get(this.#keyOf(document))
    return holder !== undefined && holder._id !== document._id
  }

  /** Puts `to` in the place of `from`, which must be the document itself. */
  update(from: T, to: T): void {
    const key = this.#keyOf(from)
    if (this.#keyOf(to) !== key) {
      this.remove(from)
      this.insert(to)
    } else if (key !== undefined || !this.sparse) {
      if (this.unique) this.#holders.set(key, to)
      else this.#buckets.get(key)?.delete(from)
      if (!this.unique) this.#bucket(key).add(to)
    }
  }

  insert(documents: T | T[]): void {
    for (const document of Array.isArray(documents) ? documents : [documents]) {
      const key = this.#keyOf(document)
      if (key === undefined && this.sparse) continue
      if (this.isTaken(document)) throw uniqueViolation(this.fieldName)
      if (this.unique) this.#holders.set(key, document)
      else this.#bucket(key).add(document)
    }
  }

  remove(documents: T | T[]): void {
    for (const document of Array.isArray(documents) ? documents : [documents]) {
      const key = this.#keyOf(document)
      this.#holders.delete(key)
      const bucket = this.#buckets.get(key)
      bucket?.delete(document)
      if (bucket?.size === 0) this.#buckets.delete(key)
    }
  }

  reset(documents: T | T[] = []): void {
    this.#holders.clear()
    this.#buckets.clear()
    this.insert(documents)
  }

  getMatching(values: unknown): T[] {
    // Of several fields NeDB gives an object with the value of each.
    if (this.#readers.length > 1) return this.getAll()
    return [...new Set([values].flat())].flatMap((value) => [...this.holding(value)])
  }

  getBetweenBounds(): T[] {
    return this.getAll()
  }

  getAll(): T[] {
    return this.unique ? [...this.#holders.values()] : [...this.#buckets.values()].flatMap((bucket) => [...bucket])
  }

  /** The documents of one value. Not a copy: read it before anything is changed. */
  holding(value: unknown): Iterable<T> {
    if (!this.unique) return this.#buckets.get(value) ?? []
    const holder = this.#holders.get(value)
    return holder ? [holder] : []
  }

  /** How many documents have one of these values. */
  countOf(values: unknown[]): number {
    if (this.unique) return values.length
    return values.reduce<number>((sum, value) => sum + (this.#buckets.get(value)?.size ?? 0), 0)
  }

  /** undefined where one of the fields is missing. */
  #keyOf(document: T): unknown {
    if (this.#readers.length === 1) return this.#readers[0]!(document)
    const values = this.#readers.map((read) => read(document))
    return values.includes(undefined) ? undefined : JSON.stringify(values)
  }

  #bucket(key: unknown): Set<T> {
    const bucket = this.#buckets.get(key) ?? new Set()
    this.#buckets.set(key, bucket)
    return bucket
  }
}

/** As NeDB itself says it. */
function uniqueViolation(fieldName: string): Error {
  return Object.assign(new Error(`Can't insert key, it violates the unique constraint on ${fieldName}`), {
    errorType: 'uniqueViolated'
  })
}
