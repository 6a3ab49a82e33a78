/**
 * MongoDB: one `mongoose.createConnection`. Opening succeeds while the server is down; the connection is tried in
 * the background until it is there, and from then on the driver reconnects by itself.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { DbAdapter } from 'moleculer-db'
import MongooseDbAdapter from 'moleculer-db-adapter-mongoose'
import mongoose from 'mongoose'
import { IngestError } from '../../domain/errors.ts'
import type { Document, Index } from './collection.ts'
import type { Database } from './database.ts'
import { databaseError, mongoCollection, pingMongo } from './mongo.ts'
import { DEFAULT_DATABASE, hasDatabase } from './mongo-address.ts'

const connectRetryMs = 500
const connectPatienceMs = 1000

/** Fail fast while the server is away; `socketTimeoutMS` frees callers of a server that went silent, well below a lease. */
const connectOptions: mongoose.ConnectOptions = {
  bufferCommands: false,
  autoIndex: false,
  autoCreate: false,
  sanitizeFilter: true,
  serverSelectionTimeoutMS: 3000,
  connectTimeoutMS: 3000,
  socketTimeoutMS: 10_000,
  waitQueueTimeoutMS: 3000,
  heartbeatFrequencyMS: 2000,
  writeConcern: { w: 'majority', journal: true, wtimeoutMS: 5000 }
}

/** Rejects with INVALID for an address that cannot be read. */
export async function openMongo(url: string): Promise<Database> {
  const connection = mongoose.createConnection()
  const end = new AbortController()
  const options = hasDatabase(url) ? connectOptions : { ...connectOptions, dbName: DEFAULT_DATABASE }

  // mongoose gives up after the first attempt; once connected, the driver never does.
  let lastError: unknown
  async function connect(): Promise<void> {
    while (!end.signal.aborted) {
      try {
        await connection.openUri(url, { ...options })
        return
      } catch (error) {
        // An address that cannot be read does not get better.
        if ((error as Error).name === 'MongoParseError') throw badAddress(error as Error)
        lastError = error
        await delay(connectRetryMs, undefined, { signal: end.signal, ref: false }).catch(() => {})
      }
    }
  }
  const connected = connect()
  connected.catch(() => {})
  // Long enough to be connected when there is a server, and to refuse an address that is none.
  const patience = new AbortController()
  await Promise.race([connected, delay(connectPatienceMs, undefined, { signal: patience.signal })]).finally(() =>
    patience.abort()
  )

  return {
    kind: 'mongodb',
    adapter: (name, fields = {}) =>
      new SharedMongooseAdapter(modelOf(connection, name, fields)) as unknown as DbAdapter,
    collection: <T extends Document>(adapter: DbAdapter, indexes: Index[]) =>
      mongoCollection<T>((adapter as unknown as { model: mongoose.Model<T> }).model, indexes, { signal: end.signal }),
    ping: async () => {
      if (!connection.db && lastError) throw databaseError(lastError)
      await pingMongo(connection)
    },
    close: async () => {
      end.abort()
      await connected.catch(() => {})
      await connection.close()
    }
  }
}

/** Some of the driver's messages repeat the whole address, with its password. */
function badAddress(error: Error): IngestError {
  const reason = error.message.includes('://') ? 'expected mongodb://user:password@host:port/name' : error.message
  return new IngestError('INVALID', `the address of MongoDB cannot be read: ${reason}`)
}

function modelOf(
  connection: mongoose.Connection,
  name: string,
  fields: mongoose.SchemaDefinition
): mongoose.Model<unknown> {
  const known = connection.models[name]
  if (known) return known
  const schema = new mongoose.Schema(
    { ...fields, _id: String },
    {
      collection: name,
      strict: false,
      // The adapter turns `strictQuery` on for all of mongoose, which drops the fields that a schema does not name
      // from a filter: a find by state would answer every document.
      strictQuery: false,
      minimize: false,
      versionKey: false,
      id: false,
      autoIndex: false,
      autoCreate: false,
      bufferCommands: false
    }
  )
  return connection.model(name, schema) as unknown as mongoose.Model<unknown>
}

type CursorParams = Parameters<MongooseDbAdapter<never>['createCursor']>[0]

/**
 * The mongoose adapter in its `model` form, on our connection: its own `connect` and `disconnect` work on mongoose's
 * global connection, so that one service's stop would close every other's. Reads are lean.
 */
class SharedMongooseAdapter extends MongooseDbAdapter<never> {
  constructor(model: mongoose.Model<unknown>) {
    super('')
    this.model = model as never
  }

  override init(broker: never, service: never): void {
    this.broker = broker
    this.service = service
  }

  override async connect(): Promise<void> {}

  override async disconnect(): Promise<void> {}

  override createCursor(params: CursorParams): never {
    // Services write these queries, operators and all, and validate what users may put into them.
    const query = trusted(structuredClone(params.query ?? {}))
    return super.createCursor({ ...params, query }).lean() as never
  }

  override find(filters: CursorParams): Promise<never[]> {
    return translated(super.find(filters))
  }

  override count(filters?: never): Promise<number> {
    return translated(super.count(filters))
  }

  override findOne(query: never): Promise<never> {
    return translated(this.model.findOne(query).lean().exec()) as Promise<never>
  }

  override findById(id: string): Promise<never> {
    return translated(this.model.findById(id).lean().exec()) as Promise<never>
  }

  override findByIds(ids: string[]): Promise<never[]> {
    return this.find({ query: { _id: { $in: ids } } })
  }

  override entityToObject(entity: unknown): unknown {
    return entity
  }
}

/** Marks a condition and all within: sanitizeFilter looks at each, and mongoose forgets the mark of an array. */
function trusted<V>(condition: V): V {
  if (typeof condition !== 'object' || condition === null) return condition
  for (const inner of Object.values(condition)) trusted(inner)
  return mongoose.trusted(condition)
}

async function translated<R>(promise: Promise<R>): Promise<R> {
  try {
    return await promise
  } catch (error) {
    throw databaseError(error)
  }
}
