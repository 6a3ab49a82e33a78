/**
 * One database connection a process, shared by its services and counted: the first `openDatabase` of a place
 * opens it, the last `close` closes it.
 *
 * MongoDB: see mongo-connection.ts, loaded only where it is used.
 * NeDB: one folder, held by a lock, since two processes would overwrite each other's files. The lock is a folder
 * whose time is renewed every 2 s; one that is 8 s old belongs to nobody, so a killed process blocks nobody for long.
 */
import { chmod, readFile, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import DbService, { type DbAdapter } from 'moleculer-db'
import lockfile from 'proper-lockfile'
import { IngestError } from '../../domain/errors.ts'
import { makeFolders } from '../folder.ts'
import { noteHeldFolder, noteLostFolder } from '../held-folders.ts'
import type { Document, Index } from './collection.ts'
import { cutTornLine, moveDamagedLines } from './damage.ts'
import type { Database } from './database.ts'
import { nedbCollection } from './nedb.ts'
import { type Datastore, storeOf } from './nedb-store.ts'

export interface DatabaseOptions {
  /** `mongodb://…`; null for the embedded database. A URL without a database name means `longshore`. */
  mongoUrl: string | null
  /** The folder of the embedded database. */
  dataDir: string
}

interface Shared {
  users: number
  backend: Promise<Database>
}

const shared = new Map<string, Shared>()
const closing = new Map<string, Promise<void>>()

/**
 * A share of this process's connection to the database; give it back with `close`.
 * Rejects with CONFLICT when another process uses the folder, DATABASE_UNAVAILABLE when the folder cannot be used.
 */
export async function openDatabase({ mongoUrl, dataDir }: DatabaseOptions): Promise<Database> {
  const key = mongoUrl ?? `folder:${resolve(dataDir)}`
  const mine: Shared = shared.get(key) ?? {
    users: 0,
    backend: (closing.get(key) ?? Promise.resolve()).then(() => (mongoUrl ? openServer(mongoUrl) : openFolder(dataDir)))
  }
  shared.set(key, mine)
  mine.users++
  let backend: Database
  try {
    backend = await mine.backend
  } catch (error) {
    if (shared.get(key) === mine) shared.delete(key)
    throw error
  }
  let closed: Promise<void> | undefined
  async function release(): Promise<void> {
    if (--mine.users > 0) return
    shared.delete(key)
    const done = backend.close().finally(() => {
      if (closing.get(key) === done) closing.delete(key)
    })
    closing.set(key, done)
    await done
  }
  return {
    ...backend,
    close: () => {
      closed ??= release()
      return closed
    }
  }
}

/** mongoose is 25 MB of memory and a third of a second of the start, which an embedded node is spared. */
async function openServer(mongoUrl: string): Promise<Database> {
  const { openMongo } = await import('./mongo-connection.ts')
  return openMongo(mongoUrl)
}

const lockStaleMs = 8000
const lockRenewMs = 2000
const lockPollMs = 250
const compactEveryMs = 10 * 60_000

type LoadedAdapter = InstanceType<typeof DbService.MemoryAdapter> & { db: Datastore }

async function openFolder(folder: string): Promise<Database> {
  let lost: unknown
  const unlock = await lockFolder(folder, (error) => {
    lost = error
    noteLostFolder(folder)
  })
  noteHeldFolder(folder)
  const stores = new Map<string, Promise<LoadedAdapter>>()
  const damage = new Map<string, string[]>()
  const takenOver = new Set<string>()
  let compaction: NodeJS.Timeout | undefined

  function check(): void {
    if (!lost) return
    throw new IngestError('DATABASE_UNAVAILABLE', 'another process took DATA_DIR over: restart this one', {
      cause: lost
    })
  }

  function noteDamage(name: string, sentence: string | null): void {
    if (sentence) damage.set(name, [...(damage.get(name) ?? []), sentence])
  }

  async function load(name: string): Promise<LoadedAdapter> {
    const filename = join(folder, `${name}.db`)
    noteDamage(name, await cutTornLine(filename))
    const adapter = new DbService.MemoryAdapter({
      filename,
      modes: { fileMode: 0o600, dirMode: 0o700 },
      // Not NeDB's one line in ten, lost without a word.
      corruptAlertThreshold: 0
    } as never) as LoadedAdapter
    try {
      await adapter.connect()
    } catch (error) {
      if ((error as { corruptItems?: number }).corruptItems === undefined) throw error
      noteDamage(name, await moveDamagedLines(filename))
      await adapter.connect()
    }
    return adapter
  }

  function loaded(name: string): Promise<LoadedAdapter> {
    const known = stores.get(name)
    if (known) return known
    const loading = load(name)
    stores.set(name, loading)
    loading.catch(() => stores.delete(name))
    return loading
  }

  async function compact(): Promise<void> {
    for (const loading of stores.values()) {
      if (lost) return
      const adapter = await loading.catch(() => null)
      // What cannot be written now (disk full) is reported by the next write.
      await adapter?.db.compactDatafileAsync().catch(() => {})
    }
  }
  async function closeFile(loading: Promise<LoadedAdapter>): Promise<void> {
    const adapter = await loading.catch(() => null)
    if (adapter) await storeOf(adapter.db).close()
  }
  // NeDB's own timer leaves a rejection unhandled, which ends the process.
  compaction = setInterval(compact, compactEveryMs).unref()

  return {
    kind: 'nedb',
    adapter: (name) => new SharedFileAdapter(() => loaded(name)) as unknown as DbAdapter,
    collection: <T extends Document>(adapter: DbAdapter, indexes: Index[]) =>
      nedbCollection<T>((adapter as unknown as LoadedAdapter).db, indexes, check),
    damageOf: (name) => damage.get(name) ?? [],
    isTakenOver: (name) => {
      const isFirst = !takenOver.has(name)
      takenOver.add(name)
      return isFirst
    },
    ping: async () => check(),
    close: async () => {
      clearInterval(compaction)
      await compact()
      for (const loading of stores.values()) await closeFile(loading)
      noteLostFolder(folder)
      if (!lost) await unlock()
    }
  }
}

/** moleculer-db's own NeDB adapter on a store that all services of this process share: two on one file would overwrite each other. */
class SharedFileAdapter extends DbService.MemoryAdapter {
  declare db: Datastore | null
  #load: () => Promise<LoadedAdapter>

  constructor(load: () => Promise<LoadedAdapter>) {
    super()
    this.#load = load
  }

  override async connect(): Promise<void> {
    this.db = (await this.#load()).db
  }
}

async function lockFolder(folder: string, onCompromised: (error: Error) => void): Promise<() => Promise<void>> {
  const lockfilePath = join(folder, 'longshore.lock')
  const ownerPath = join(folder, 'longshore.owner')
  const giveUp = performance.now() + lockStaleMs + 2000
  try {
    makeFolders(resolve(folder), 0o700)
    for (;;) {
      try {
        const release = await lockfile.lock(folder, {
          lockfilePath,
          stale: lockStaleMs,
          update: lockRenewMs,
          onCompromised
        })
        await writeFile(ownerPath, JSON.stringify({ host: hostname(), pid: process.pid }), { mode: 0o600 })
        await chmod(ownerPath, 0o600)
        return async () => {
          await rm(ownerPath, { force: true })
          await release()
        }
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ELOCKED') throw error
        const owner = await ownerOf(ownerPath)
        // The lock of a dead process gets old; one of a living process never does.
        if (owner.isAlive || performance.now() > giveUp) {
          throw new IngestError(
            'CONFLICT',
            `DATA_DIR ${folder} is in use by another Longshore process${owner.pid ? ` (pid ${owner.pid})` : ''}: stop it, choose another folder, or set MONGO_URL`
          )
        }
        await delay(lockPollMs)
      }
    }
  } catch (error) {
    if ((error as { name?: unknown }).name === 'IngestError') throw error
    throw new IngestError('DATABASE_UNAVAILABLE', `DATA_DIR ${folder} cannot be used: ${(error as Error).message}`, {
      cause: error
    })
  }
}

async function ownerOf(ownerPath: string): Promise<{ pid: number | null; isAlive: boolean }> {
  try {
    const { host, pid } = JSON.parse(await readFile(ownerPath, 'utf8')) as { host: string; pid: number }
    // In a restarted container the dead owner had the pid that is now ours.
    if (host !== hostname() || pid === process.pid) return { pid, isAlive: false }
    try {
      process.kill(pid, 0)
      return { pid, isAlive: true }
    } catch (error) {
      return { pid, isAlive: (error as NodeJS.ErrnoException).code === 'EPERM' }
    }
  } catch {
    return { pid: null, isAlive: false }
  }
}
