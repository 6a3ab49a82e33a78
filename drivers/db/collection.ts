/**
 * What the state machine needs of a database, small enough to be the same on MongoDB and NeDB.
 * Every change of a document is a compare-and-set on its `revision`: read it, compute the next one in
 * `domain`, write it if nobody was faster. Atomic on one document; no transaction is needed.
 */
export interface Document {
  _id: string
  /** Counted up by every write. */
  revision: number
}

/** Equality, `$in`, `$lt`, `$lte`, `$gt`, `$gte`, `$ne`, `$exists`, `$or`, `$and`: the subset that both databases share. */
export type Query = Record<string, unknown>

export interface FindOptions {
  /** Field -> 1 ascending, -1 descending. */
  sort?: Record<string, 1 | -1>
  limit?: number
  /** The fields to leave out of the answer. */
  omit?: string[]
}

export interface Collection<T extends Document> {
  /** Inserts the documents whose `_id` (or other unique key) is not taken; answers the ids that were inserted. Idempotent. */
  insertNew(documents: T[]): Promise<Set<string>>
  /**
   * Writes `to` where the stored document still has `from.revision`; `to` is stored with `from.revision + 1`.
   * Each pair stands alone; answers for each whether it was written. Only top-level fields that differ are sent.
   * Throws CONFLICT when another unique key is taken, after all other pairs were tried; its `data.written` is the
   * answer for them.
   */
  replaceEach(pairs: { from: T; to: T }[]): Promise<boolean[]>
  find(query: Query, options?: FindOptions): Promise<T[]>
  /** In any order; ids that are not there are left out. */
  findByIds(ids: string[]): Promise<T[]>
  count(query: Query): Promise<number>
  /** Counts and the sum of the field `size` of the documents that match, by the field `status`. */
  totals(query: Query): Promise<Record<string, { count: number; bytes: number }>>
  removeByIds(ids: string[]): Promise<number>
  /** Rejects with DATABASE_UNAVAILABLE when the database does not answer. */
  ping(): Promise<void>
}

/** An index: fields with their direction; `partial` limits it to documents that match (MongoDB only, a hint elsewhere). */
export interface Index {
  fields: Record<string, 1 | -1>
  unique?: boolean
  partial?: Query
  /** NeDB's index of hashes does without it: its first field is only compared by order, or `_id` is made of its fields. */
  notInNedb?: boolean
  /** In NeDB the documents of which this holds are kept in the order of the fields, for look-ups that sort by them. */
  inOrder?: Query
}
