/**
 * One NeDB file and its documents in memory, changed in groups.
 *
 *   change asked for -> waiting -> (all that wait) changed in memory -> one append of their lines -> confirmed
 *
 * A change is confirmed only once its line is written. Memory is changed first and the file after: an append that failed
 * (disk full) may have left half a line, to which the next would be glued, and memory is ahead of the file. Both are
 * mended, by writing the file anew, before the next change.
 *
 * This goes below NeDB's public methods, which append for every document; its version is pinned for that reason.
 * Everything runs in NeDB's own queue, so that its loading and compacting never meet a change.
 *
 * The file is kept open, and written to at once: a few kilobytes go to the page cache in some microseconds, and handing
 * them to another thread costs ten times as much. NeDB's compaction puts another file in its place.
 */
import { closeSync, constants, fstatSync, openSync, type Stats, writeSync } from 'node:fs'
import { access } from 'node:fs/promises'
import type Nedb from '@seald-io/nedb'
import { isStillNamed } from '../same-file.ts'
import type { Document, FindOptions, Index, Query } from './collection.ts'
import { HashIndex } from './nedb-index.ts'
import { OrderedIndex } from './ordered-index.ts'
import { select, wantedValues, wantsOrder } from './query.ts'

/** NeDB's types describe an ES module; the package is the class itself. */
export type Datastore = Nedb.default

/** What NeDB has but does not publish. */
interface Internals<T extends Document> {
  filename: string | null
  indexes: Record<string, HashIndex<T>>
  executor: { pushAsync<R>(task: () => Promise<R>): Promise<R> }
  persistence: { persistCachedDatabaseAsync(): Promise<void> }
}

/** The lines to be written, and the answer for whoever asked. */
export interface Written<R> {
  lines: string[]
  answer: R
}

interface Waiting {
  change(): string[]
  confirm(): void
  fail(error: unknown): void
}

const stores = new WeakMap<object, NedbStore<never>>()

/** The one writer of a loaded store. */
export function storeOf<T extends Document>(datastore: Datastore): NedbStore<T> {
  const known = stores.get(datastore) ?? new NedbStore<never>(datastore)
  stores.set(datastore, known)
  return known as unknown as NedbStore<T>
}

const fileMode = 0o600

class NedbStore<T extends Document> {
  readonly #internals: Internals<T>
  readonly #ordered = new Map<string, OrderedIndex<T>>()
  #waiting: Waiting[] = []
  /** What is appended to; null until the first append. */
  #file: { descriptor: number; stats: Stats } | null = null
  #isTorn = false

  constructor(datastore: Datastore) {
    this.#internals = datastore as unknown as Internals<T>
    datastore.on('compaction.done', () => this.#release())
    const { indexes } = this.#internals
    // Whatever NeDB made of an older file; `ensureIndex` makes the ones that are wanted now.
    const documents = indexes._id!.getAll()
    this.#internals.indexes = {}
    this.#addIndex(['_id'], true, false, documents)
  }

  /** Idempotent. Throws as NeDB does when the documents break a unique one. */
  ensureIndex({ fields, unique = false, partial, notInNedb, inOrder }: Index): void {
    if (notInNedb) return
    const names = Object.keys(fields)
    if (inOrder) this.#addOrder(inOrder, names)
    // Equality on the first field alone narrows a search enough; a unique one holds all of its fields together.
    this.#addIndex(unique ? names : names.slice(0, 1), unique, partial !== undefined, this.#documents())
  }

  /**
   * Changes memory by `change`, at once with all other changes that wait, and resolves once its lines are in the file.
   * `change` must not wait; where it throws nothing was changed, and the error is the caller's.
   */
  write<R>(change: () => Written<R>): Promise<R> {
    return new Promise<R>((resolve, reject) => {
      let answer: R
      this.#waiting.push({
        change: () => {
          const written = change()
          answer = written.answer
          return written.lines
        },
        confirm: () => resolve(answer),
        fail: reject
      })
      if (this.#waiting.length === 1) void this.#internals.executor.pushAsync(() => this.#commit())
    })
  }

  /** Runs when all changes before are in the file. */
  read<R>(look: () => R): Promise<R> {
    return this.#internals.executor.pushAsync(async () => look())
  }

  /** The stored documents themselves, for `read` and `write`: to be copied, never changed. */
  get(id: string): T | undefined {
    const [document] = this.#internals.indexes._id!.holding(id)
    return document
  }

  find(query: Query, options?: FindOptions): T[] {
    const sorted = options?.sort ? this.#inOrder(query, options.sort) : null
    if (sorted) return select(sorted, query, { limit: options?.limit })
    return select(this.#candidates(query), query, options)
  }

  /** Whether a unique key of this document is another one's. */
  isTaken(document: T): boolean {
    return Object.values(this.#internals.indexes).some((index) => index.isTaken(document))
  }

  insert(document: T): string {
    for (const index of Object.values(this.#internals.indexes)) index.insert(document)
    for (const order of this.#ordered.values()) order.insert(document)
    return lineOf(document)
  }

  replace(from: T, to: T): string {
    for (const index of Object.values(this.#internals.indexes)) index.update(from, to)
    for (const order of this.#ordered.values()) {
      order.remove(from)
      order.insert(to)
    }
    return lineOf(to)
  }

  remove(document: T): string {
    for (const index of Object.values(this.#internals.indexes)) index.remove(document)
    for (const order of this.#ordered.values()) order.remove(document)
    return lineOf({ $$deleted: true, _id: document._id })
  }

  /** Rejects when the file cannot be written. */
  async checkFile(): Promise<void> {
    await this.#internals.executor.pushAsync(() => this.#mend())
    const { filename } = this.#internals
    if (filename) await access(filename, constants.R_OK | constants.W_OK)
  }

  /** The last step. */
  close(): Promise<void> {
    return this.#internals.executor.pushAsync(async () => this.#release())
  }

  async #commit(): Promise<void> {
    // What is asked for in this turn of the event loop comes along; and a long row of changes leaves others their turn.
    await new Promise<void>((resolve) => setImmediate(resolve))
    const group = this.#waiting
    this.#waiting = []
    const changed: Waiting[] = []
    let lines = ''
    try {
      await this.#mend()
      for (const one of group) {
        try {
          for (const line of one.change()) lines += line
          changed.push(one)
        } catch (error) {
          one.fail(error)
        }
      }
      if (lines !== '') this.#append(lines)
      for (const { confirm } of changed) confirm()
    } catch (error) {
      this.#isTorn ||= lines !== ''
      for (const { fail } of group) fail(error)
    }
  }

  #append(lines: string): void {
    const { filename } = this.#internals
    if (!filename) return
    this.#file ??= openToAppend(filename)
    const bytes = Buffer.from(lines)
    for (let at = 0; at < bytes.length; ) at += writeSync(this.#file.descriptor, bytes, at)
  }

  #release(): void {
    if (this.#file !== null) closeSync(this.#file.descriptor)
    this.#file = null
  }

  /** Writes the file anew where it ends in half a line, or was removed or replaced by hand. */
  async #mend(): Promise<void> {
    if (!this.#isTorn && this.#isInPlace()) return
    this.#isTorn = true
    // Its public method would wait for the queue, in which this stands.
    await this.#internals.persistence.persistCachedDatabaseAsync()
    this.#isTorn = false
  }

  #isInPlace(): boolean {
    return this.#file === null || isStillNamed(this.#internals.filename!, this.#file.stats)
  }

  #documents(): T[] {
    return this.#internals.indexes._id!.getAll()
  }

  #addIndex(fields: string[], unique: boolean, sparse: boolean, documents: T[]): void {
    const index = new HashIndex<T>({ fields, unique, sparse })
    if (this.#internals.indexes[index.fieldName]) return
    index.insert(documents)
    this.#internals.indexes[index.fieldName] = index
  }

  #addOrder(only: Query, fields: string[]): void {
    const name = JSON.stringify([only, fields])
    if (this.#ordered.has(name)) return
    const order = new OrderedIndex<T>({ only, fields })
    for (const document of this.#documents()) order.insert(document)
    this.#ordered.set(name, order)
  }

  #inOrder(query: Query, sort: NonNullable<FindOptions['sort']>): Iterable<T> | null {
    for (const order of this.#ordered.values()) {
      const documents = order.inOrder(query, sort)
      if (documents) return documents
    }
    return null
  }

  /** The documents of the smallest of the buckets in which all matches must be. */
  #candidates(query: Query): Iterable<T> {
    let best: { index: HashIndex<T>; values: unknown[] | null; count: number } | null = null
    for (const [field, index] of Object.entries(this.#internals.indexes)) {
      const values = wantedValues(query, field)
      // A range is only of documents that have the field.
      if (!values && !(index.sparse && wantsOrder(query, field))) continue
      const count = values ? index.countOf(values) : index.getAll().length
      if (!best || count < best.count) best = { index, values, count }
    }
    if (!best) return this.#documents()
    return best.values ? best.index.getMatching(best.values) : best.index.getAll()
  }
}

function openToAppend(filename: string) {
  const descriptor = openSync(filename, 'a', fileMode)
  return { descriptor, stats: fstatSync(descriptor) }
}

function lineOf(document: object): string {
  return `${JSON.stringify(document)}\n`
}
