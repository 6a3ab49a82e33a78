/**
 * `Collection` on MongoDB.
 *
 * It speaks through the driver's own collection below the mongoose model: our queries carry operators, which
 * `sanitizeFilter` would turn into values, and no document needs hydrating. Every write is one atomic statement on
 * one document, so a single server and a replica set serve alike.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import mongoose from 'mongoose'
import { errorType, IngestError } from '../../domain/errors.ts'
import { changedFields } from './changes.ts'
import type { Collection, Document, Index } from './collection.ts'

const updatesInFlight = 16
const indexRetryMs = 500
const indexPatienceMs = 3000
const pingTimeoutMs = 3000

export interface MongoCollectionOptions {
  /** Ends the background work (index creation) when the connection is closed. */
  signal?: AbortSignal
}

/** Only what we rely on: the driver's types would want every field name. */
interface Stored {
  _id: string
  [field: string]: unknown
}

interface Total {
  _id: string
  count: number
  bytes: number
}

/**
 * The collection of a model whose connection may be down: then every call rejects with DATABASE_UNAVAILABLE and
 * works again by itself later. The indexes are made in the background until they are there; writes wait a little
 * for them, since a unique index decides who is first, reads do not.
 */
export async function mongoCollection<T extends Document>(
  model: mongoose.Model<T>,
  indexes: Index[],
  { signal }: MongoCollectionOptions = {}
): Promise<Collection<T>> {
  function native(): mongoose.mongo.Collection<Stored> {
    const db = model.db.db
    if (!db) throw new IngestError('DATABASE_UNAVAILABLE', 'the database is not connected yet')
    return db.collection(model.collection.name, { ignoreUndefined: true }) as never
  }

  let indexed = indexes.length === 0
  let indexError: unknown
  async function createIndexes(): Promise<void> {
    while (!indexed && !signal?.aborted) {
      try {
        for (const { fields, unique, partial } of indexes) {
          await native().createIndex(fields, { ...(unique ? { unique } : {}), ...partialOptions(fields, partial) })
        }
        indexed = true
      } catch (error) {
        indexError = error
        await delay(indexRetryMs, undefined, { ref: false, ...(signal ? { signal } : {}) }).catch(() => {})
      }
    }
  }
  const indexing = createIndexes()

  async function indexesThere(): Promise<void> {
    if (indexed) return
    const patience = new AbortController()
    await Promise.race([
      indexing,
      delay(indexPatienceMs, undefined, { signal: patience.signal }).catch(() => {})
    ]).finally(() => patience.abort())
    if (indexed) return
    throw new IngestError('DATABASE_UNAVAILABLE', `the indexes are not made yet: ${messageOf(indexError)}`, {
      cause: indexError
    })
  }

  async function guarded<R>(operation: () => Promise<R>): Promise<R> {
    try {
      return await operation()
    } catch (error) {
      throw databaseError(error)
    }
  }

  async function replaceOne(from: T, to: T): Promise<boolean> {
    const { set, unset } = changedFields(from, to)
    const result = await native().updateOne(
      { _id: from._id, revision: from.revision },
      {
        $set: { ...set, revision: from.revision + 1 },
        ...(unset.length > 0 ? { $unset: Object.fromEntries(unset.map((key) => [key, true as const])) } : {})
      }
    )
    return result.matchedCount === 1
  }

  return {
    insertNew: (documents) =>
      guarded(async () => {
        if (documents.length === 0) return new Set<string>()
        await indexesThere()
        const refused = await native()
          .insertMany(documents as never[], { ordered: false })
          .then(() => new Set<number>(), duplicates)
        return new Set(documents.filter((_, i) => !refused.has(i)).map((document) => document._id))
      }),
    replaceEach: (pairs) =>
      guarded(async () => {
        await indexesThere()
        const written: boolean[] = pairs.map(() => false)
        let next = 0
        let isTaken = false
        // A bulkWrite would say how many were matched, not which: one statement a pair does.
        async function work(): Promise<void> {
          for (let i = next++; i < pairs.length; i = next++) {
            try {
              written[i] = await replaceOne(pairs[i]!.from, pairs[i]!.to)
            } catch (error) {
              if (errorType(databaseError(error)) !== 'CONFLICT') throw error
              isTaken = true
            }
          }
        }
        await allDone(Array.from({ length: Math.min(updatesInFlight, pairs.length) }, work))
        if (isTaken) throw new IngestError('CONFLICT', 'a unique key is taken', { data: { written } })
        return written
      }),
    find: (query, options = {}) =>
      guarded(() => {
        const projection = Object.fromEntries((options.omit ?? []).map((field) => [field, 0]))
        const cursor = native().find(query, { projection })
        if (options.sort) cursor.sort(options.sort)
        if (options.limit) cursor.limit(options.limit)
        return cursor.toArray() as unknown as Promise<T[]>
      }),
    findByIds: (ids) =>
      guarded(
        async () =>
          native()
            .find({ _id: { $in: ids } })
            .toArray() as unknown as Promise<T[]>
      ),
    count: (query) => guarded(async () => native().countDocuments(query)),
    totals: (query) =>
      guarded(async () => {
        const sum = { _id: '$status', count: { $sum: 1 }, bytes: { $sum: '$size' } }
        const rows = await native()
          .aggregate<Total>([{ $match: query }, { $group: sum }])
          .toArray()
        return Object.fromEntries(
          rows.filter(({ _id }) => typeof _id === 'string').map(({ _id, count, bytes }) => [_id, { count, bytes }])
        )
      }),
    removeByIds: (ids) => guarded(async () => (await native().deleteMany({ _id: { $in: ids } })).deletedCount),
    ping: () => guarded(() => pingMongo(model.db))
  }
}

/** An index of one field where that field exists is a sparse one, which servers know that know no partial ones. */
function partialOptions(fields: Index['fields'], partial: Index['partial']): mongoose.mongo.CreateIndexesOptions {
  if (!partial) return {}
  const [field, ...others] = Object.keys(fields)
  const isSparse = others.length === 0 && isDeepStrictEqual(partial, { [field!]: { $exists: true } })
  return isSparse ? { sparse: true } : { partialFilterExpression: partial }
}

/** Rejects with DATABASE_UNAVAILABLE unless the server answers within about 3 s. */
export async function pingMongo(connection: mongoose.Connection): Promise<void> {
  try {
    if (!connection.db) throw new IngestError('DATABASE_UNAVAILABLE', 'the database is not connected yet')
    await connection.db.command({ ping: 1 }, { timeoutMS: pingTimeoutMs })
  } catch (error) {
    throw databaseError(error)
  }
}

/** Which of the inserted documents were refused because a unique key is taken; throws when there was another error. */
function duplicates(error: unknown): Set<number> {
  if (!(error instanceof mongoose.mongo.MongoBulkWriteError)) throw error
  const errors = [error.writeErrors].flat()
  const other = errors.find((one) => one.code !== duplicateKey)
  if (other) throw new IngestError('INTERNAL', messageOf(other), { cause: error })
  // The driver wraps a lost connection in a MongoBulkWriteError too, with no code and nothing refused; a missed write
  // concern may come beside refused documents. Neither says that the others are safe.
  if (error.code !== duplicateKey || error.result.getWriteConcernError()) throw error
  return new Set(errors.map((one) => one.index))
}

const duplicateKey = 11000

/**
 * Server codes by which a server says "not now": network and host (6, 7, 89, 9001), stepping down or shutting down
 * (91, 189, 10107, 11600, 11602, 13435, 13436), time limits (50, 202, 262), write concern (64, 100), read
 * preference (133), and credentials (13, 18), which an operator mends.
 */
const notNow = new Set([6, 7, 13, 18, 50, 64, 89, 91, 100, 133, 189, 202, 262, 9001, 10107, 11600, 11602, 13435, 13436])

const unreachable =
  /Network|ServerSelection|NotConnected|TopologyClosed|ClientClosed|Pool(Closed|Cleared)|WaitQueueTimeout|OperationTimeout|WriteConcern|SystemError|ExpiredSession|^MongooseError$/

/** An error of mongoose or its driver as one of ours. The driver's messages name hosts, never credentials. */
export function databaseError(error: unknown): Error {
  if (errorType(error) !== 'INTERNAL' || (error as { name?: unknown }).name === 'IngestError') return error as Error
  if (!(error instanceof Error)) return new IngestError('INTERNAL', String(error))
  const code = (error as { code?: unknown }).code
  const isUnsafe = error instanceof mongoose.mongo.MongoBulkWriteError
  if (code === duplicateKey && !isUnsafe) return new IngestError('CONFLICT', 'a unique key is taken', { cause: error })
  if (unreachable.test(error.name) || isUnsafe || (typeof code === 'number' && notNow.has(code))) {
    return new IngestError('DATABASE_UNAVAILABLE', `the database does not answer: ${error.message}`, { cause: error })
  }
  return new IngestError('INTERNAL', `the database refused: ${error.message}`, { cause: error })
}

function messageOf(error: unknown): string {
  return (error as { errmsg?: string; message?: string } | undefined)?.errmsg ?? (error as Error)?.message ?? 'waiting'
}

/** The results in order; rejects with the first error, but only once nothing is in flight any more. */
async function allDone<R>(promises: Promise<R>[]): Promise<R[]> {
  const settled = await Promise.allSettled(promises)
  return settled.map((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}
