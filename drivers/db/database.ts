/** What a service has of its database, whichever the environment chose. */
import type { DbAdapter } from 'moleculer-db'
import type mongoose from 'mongoose'
import type { Collection, Document, Index } from './collection.ts'

export interface Database {
  readonly kind: 'mongodb' | 'nedb'
  /** A moleculer-db adapter for the collection `name`. `fields` types fields for casting; others are kept as they are. */
  adapter(name: string, fields?: mongoose.SchemaDefinition): DbAdapter
  /** The collection of a connected adapter that this database made. */
  collection<T extends Document>(adapter: DbAdapter, indexes: Index[]): Promise<Collection<T>>
  /** What was found lost when the collection was loaded, each a sentence; a MongoDB looks after itself. */
  damageOf?(name: string): string[]
  /**
   * Whether this process has just taken the collection over from one that has ended: true once, and never of a MongoDB,
   * whose other users live on.
   */
  isTakenOver?(name: string): boolean
  /** Rejects with DATABASE_UNAVAILABLE when the database does not answer. */
  ping(): Promise<void>
  /** Gives this user's share back; idempotent. */
  close(): Promise<void>
}
