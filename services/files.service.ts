/**
 * The only owner of a file's state: one record per file version. Every change is a function of `domain/file.ts`
 * written as one compare-and-set. Events only say "look now"; the record is the truth.
 */
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import type { AfterUploadOutcome, AfterUploadStep } from '../domain/after-upload.ts'
import { ANNOUNCEMENT_BACKOFF, backoffMs } from '../domain/backoff.ts'
import { refusedByHand } from '../domain/by-hand.ts'
import { IngestError, type RecordedError } from '../domain/errors.ts'
import { recordedWhy } from '../domain/explain.ts'
import type { DroppedUpload, Outcome } from '../domain/file.ts'
import * as machine from '../domain/file.ts'
import { FILE_STATUSES, type FileRecord, type UploadState } from '../domain/file-record.ts'
import { alternativeKey, objectKey } from '../domain/object-key.ts'
import type { Sighting } from '../domain/readiness.ts'
import { refetch } from '../domain/refetch.ts'
import { isAtRest, type SightingRules } from '../domain/sighting.ts'
import type { Collection, Query } from '../drivers/db/collection.ts'
import { openDatabase } from '../drivers/db/connection.ts'
import type { Database } from '../drivers/db/database.ts'
import { freeFiles } from '../drivers/db/dead-leases.ts'
import { FileRecords, fileIndexes } from '../drivers/db/file-records.ts'
import { mutate } from '../drivers/db/mutate.ts'
import { collectionMixin } from '../mixins/collection.mixin.ts'
import { tickerMixin } from '../mixins/ticker.mixin.ts'
import { timelineMixin } from '../mixins/timeline.mixin.ts'

const MANY_EMBEDDED_RECORDS = 50_000
const EMBEDDED_RECORD_BYTES = 3_500
/** One message: a key has at most 1,024 bytes, and an upload's id some hundred. */
const DROPPED_AT_ONCE = 200

/** A worker's hold on a file. */
interface Hold {
  id: string
  epoch: number
}

interface Progressing extends Hold {
  progress: FileRecord['progress']
}

interface FilesService {
  collection: Collection<FileRecord>
  records: FileRecords
}

const hold = { id: 'string', epoch: 'number' }

export function filesService(config: Config): ServiceSchema {
  return {
    name: 'files',
    mixins: [
      timelineMixin(),
      collectionMixin({
        name: 'files',
        indexes: fileIndexes,
        ifLost: 'The next scans find these files again; what is stored is looked up in the store, not copied again'
      }),
      tickerMixin({ name: 'rescue', everyMs: 5_000, action: 'files.rescue' })
    ],

    actions: {
      /** Takes in what a scan or a look saw, in one batch of at most 512 KiB. Answers a `Registered`. */
      register: {
        params: { rules: 'object', sightings: 'array' },
        async handler(this: any, ctx: Context<{ rules: SightingRules; sightings: Sighting[] }>) {
          const { rules, sightings } = ctx.params
          const counts = await this.records.register(rules, sightings, Date.now())
          await this.abandonIfRemoved(ctx, rules.serverId)
          if (counts.pending > 0) ctx.emit('file.pending', { serverId: rules.serverId })
          return counts
        }
      },

      /** What `register` would make of these, changing nothing: `{counts, whys}`, the reasons in their order. */
      preview: {
        params: { rules: 'object', sightings: 'array' },
        handler(this: any, ctx: Context<{ rules: SightingRules; sightings: Sighting[] }>) {
          return this.records.preview(ctx.params.rules, ctx.params.sightings, Date.now())
        }
      },

      /** What the latest record of a path says: `{why, nextAt, file}`, or null where there is none. */
      recorded: {
        params: { serverId: 'string', path: 'string' },
        async handler(this: any, ctx: Context<{ serverId: string; path: string }>) {
          const { serverId, path } = ctx.params
          const file: FileRecord | undefined = (await this.records.latest(serverId, [path])).get(path)
          return file
            ? { ...recordedWhy(file), file: { id: file._id, version: file.version, status: file.status } }
            : null
        }
      },

      /** Servers that have something to copy now: `urgent` of those in `first`, `others` by their ids after `after`; at most `limit` each. */
      work: {
        params: {
          after: { type: 'string', default: '' },
          limit: { type: 'number', default: 50 },
          first: { type: 'array', items: 'string', default: [] }
        },
        async handler(this: any, ctx: Context<{ after: string; limit: number; first: string[] }>) {
          const { after, limit, first } = ctx.params
          const urgent = await this.records.withWork(first, limit, Date.now())
          const others = await this.records.serversWithWork(after, limit, Date.now())
          return { urgent, others }
        }
      },

      /** A worker takes up to `limit` pending files of one server; `keyTemplate` is the form of their object keys. Answers the claimed records, without history and finished parts. */
      claim: {
        params: { serverId: 'string', worker: 'string', limit: 'number', keyTemplate: 'string|optional' },
        async handler(
          this: any,
          ctx: Context<{ serverId: string; worker: string; limit: number; keyTemplate?: string }>
        ) {
          const { serverId, worker, limit, keyTemplate } = ctx.params
          return (await this.records.claim(serverId, worker, limit, Date.now(), keyTemplate)).map(asOrder)
        }
      },

      /** All holds of one worker in one call. Answers the ids that it no longer holds. */
      renew: {
        params: { holds: { type: 'array', items: { type: 'object' } } },
        async handler(this: any, ctx: Context<{ holds: Progressing[] }>) {
          const { holds } = ctx.params
          const kept: FileRecord[] = await this.records.changeEach(holds, (file: FileRecord, one: Progressing) =>
            machine.renew(file, one.epoch, one.progress, Date.now())
          )
          const ids = new Set(kept.map(({ _id }) => _id))
          const lost = holds.filter(({ id }) => !ids.has(id)).map(({ id }) => id)
          return { lost }
        }
      },

      /** Keeps the state of a multipart upload. LEASE_LOST when the worker no longer holds the file. */
      keepUpload: {
        params: { ...hold, upload: { type: 'object', nullable: true } },
        async handler(this: any, ctx: Context<Hold & { upload: UploadState | null }>) {
          const { id, epoch, upload } = ctx.params
          const kept = await mutate<FileRecord>(this.collection, id, (file) =>
            machine.keepUpload(file, epoch, upload, Date.now())
          )
          if (!kept) throw new IngestError('LEASE_LOST', `the file ${id} is held by another worker`)
          return true
        }
      },

      /** How an attempt ended. Idempotent for the same epoch; answers whether the worker still held the file. */
      finish: {
        params: { ...hold, outcome: 'object' },
        async handler(this: any, ctx: Context<Hold & { outcome: Outcome }>) {
          const { id, epoch, outcome } = ctx.params
          let dropped: DroppedUpload[] = []
          const file = await mutate<FileRecord>(this.collection, id, (current) => {
            const next = machine.finish(current, epoch, outcome, Date.now(), Math.random())
            dropped = machine.droppedBy(current, next)
            return next
          })
          this.drop(ctx, dropped)
          if (file?.status === 'uploaded') ctx.emit('file.uploaded', { serverId: file.serverId })
          return file !== null
        }
      },

      /** The same for many files at once, in one write; those that the worker no longer holds are left alone. */
      finishEach: {
        params: { ends: { type: 'array', items: { type: 'object' } } },
        async handler(this: any, ctx: Context<{ ends: (Hold & { outcome: Outcome })[] }>) {
          const files: FileRecord[] = await this.records.changeEach(ctx.params.ends, (file: FileRecord, end: any) =>
            machine.finish(file, end.epoch, end.outcome, Date.now(), Math.random())
          )
          for (const serverId of new Set(files.map((file) => file.serverId))) ctx.emit('file.uploaded', { serverId })
        }
      },

      /** Hands files whose lease ran out to other workers. */
      rescue: {
        visibility: 'public',
        async handler(this: any, ctx: Context) {
          // Here, since at the start the database may be away.
          if (!this.hasGivenTurns) await this.records.giveTurns()
          this.hasGivenTurns = true
          const { serverIds, dropped } = await this.records.rescue(Date.now())
          for (const serverId of new Set(serverIds)) ctx.emit('file.pending', { serverId })
          this.drop(ctx, dropped)
        }
      },

      /** Settling files whose next look is due, at most `limit`; each goes to one caller. `[{serverId, paths}]`. */
      claimLooks: {
        params: { limit: { type: 'number', default: 200 } },
        handler(this: any, ctx: Context<{ limit: number }>) {
          return this.records.claimLooks(ctx.params.limit, Date.now())
        }
      },

      /** Settling and pending records of a server that a scan did not touch, in pages, by id: `[{id, path}]`. */
      unstored: {
        params: { serverId: 'string', scanEpoch: 'number', after: 'string' },
        handler(this: any, ctx: Context<{ serverId: string; scanEpoch: number; after: string }>) {
          const { serverId, scanEpoch, after } = ctx.params
          return this.records.unstored(serverId, scanEpoch, after)
        }
      },

      /** Files that a complete listing and a look of its own did not find. */
      vanished: {
        params: { ids: { type: 'array', items: 'string' } },
        async handler(this: any, ctx: Context<{ ids: string[] }>) {
          for (const id of ctx.params.ids) {
            await mutate<FileRecord>(this.collection, id, (file) => machine.vanish(file, Date.now()))
          }
        }
      },

      /** The same for a look at files by their paths. */
      vanishedPaths: {
        params: { serverId: 'string', paths: { type: 'array', items: 'string' } },
        handler(this: any, ctx: Context<{ serverId: string; paths: string[] }>) {
          return this.records.vanishedPaths(ctx.params.serverId, ctx.params.paths, Date.now())
        }
      },

      /** Which of these object keys belong to a file that waits or is on its way. */
      keysInUse: {
        params: { keys: { type: 'array', items: 'string' } },
        async handler(this: any, ctx: Context<{ keys: string[] }>) {
          const query = { reservedKey: { $in: ctx.params.keys }, status: { $in: ['pending', 'downloading'] } }
          const files: FileRecord[] = await this.collection.find(query, { omit: ['history'] })
          return files.map((file) => file.reservedKey)
        }
      },

      /** Takes due announcements, at most `limit`. Answers stored records, with the announcement's new epoch. */
      claimAnnouncements: {
        params: { limit: 'number' },
        async handler(this: any, ctx: Context<{ limit: number }>) {
          return (await this.records.claimAnnouncements(ctx.params.limit, Date.now())).map(withoutHistory)
        }
      },

      /** The broker confirmed these. */
      announced: {
        params: { holds: { type: 'array', items: { type: 'object' } } },
        async handler(this: any, ctx: Context<{ holds: Hold[] }>) {
          const { holds } = ctx.params
          const notified: FileRecord[] = await this.records.changeEach(holds, (file: FileRecord, { epoch }: Hold) =>
            machine.announced(file, epoch, Date.now())
          )
          if (notified.some((file) => file.afterUpload?.status === 'due')) ctx.emit('file.clearable', {})
        }
      },

      /** Takes sources that are to be deleted or moved, at most `limit`; `[{serverId, steps: [{id, epoch, path, size, mtime}]}]`. */
      claimAfterUploads: {
        params: { limit: 'number' },
        async handler(this: any, ctx: Context<{ limit: number }>) {
          const claimed: FileRecord[] = await this.records.claimAfterUploads(ctx.params.limit, Date.now())
          const byServer = Map.groupBy(claimed, (file) => file.serverId)
          return [...byServer].map(([serverId, files]) => ({ serverId, steps: files.map(asStep) }))
        }
      },

      /** How steps after the upload ended; those that are not held any more are left alone. */
      endAfterUploads: {
        params: { ends: { type: 'array', items: { type: 'object' } } },
        async handler(
          this: any,
          ctx: Context<{ ends: (Hold & { outcome: AfterUploadOutcome; scanEpoch?: number })[] }>
        ) {
          await this.records.changeEach(ctx.params.ends, (file: FileRecord, { epoch, outcome, scanEpoch }: any) =>
            machine.endAfterUpload(file, epoch, outcome, Date.now(), Math.random(), scanEpoch)
          )
        }
      },

      /** An announcement could not be sent; it is due again later. */
      announcementFailed: {
        params: { ...hold, error: 'object' },
        async handler(this: any, ctx: Context<Hold & { error: RecordedError }>) {
          const { id, epoch, error } = ctx.params
          await mutate<FileRecord>(this.collection, id, (file) => {
            const wait = backoffMs(ANNOUNCEMENT_BACKOFF, (file.announcement?.attempts ?? 0) + 1, Math.random())
            return machine.announcementFailed(file, epoch, error, wait, Date.now())
          })
        }
      },

      /** One page, newest first. `{items, nextCursor}`; items without history. */
      list: {
        params: {
          serverId: 'string|optional',
          statuses: { type: 'array', items: { type: 'enum', values: [...FILE_STATUSES] }, optional: true },
          path: 'string|optional',
          since: 'number|optional',
          until: 'number|optional',
          cursor: 'string|optional',
          limit: { type: 'number', integer: true, min: 1, max: 1000, default: 100 }
        },
        handler(this: any, ctx: Context<any>) {
          return this.records.page(ctx.params)
        }
      },

      /** One record with its history. NOT_FOUND. */
      get: {
        params: { id: 'string' },
        async handler(this: any, ctx: Context<{ id: string }>) {
          const [file] = await this.collection.findByIds([ctx.params.id])
          if (!file) throw new IngestError('NOT_FOUND', `there is no file ${ctx.params.id}`)
          return file
        }
      },

      /** Tries a `failed` (or waiting, or vanished) file again, from the first attempt. CONFLICT in other states. */
      retry: {
        params: { id: 'string' },
        handler(this: any, ctx: Context<{ id: string }>) {
          return this.changeByHand(ctx, ctx.params.id, machine.retry, 'be retried')
        }
      },

      /** Copies a stored file again from its source, see domain/refetch.ts. CONFLICT when that cannot be asked for. */
      refetch: {
        params: { id: 'string' },
        async handler(this: any, ctx: Context<{ id: string }>) {
          const [file] = await this.collection.findByIds([ctx.params.id])
          if (file) await this.expectSource(ctx, file)
          return this.changeByHand(ctx, ctx.params.id, refetch, 'be fetched again')
        }
      },

      /** Stops a file that is not stored yet: it becomes `failed`, and its worker lets go at once. CONFLICT in other states. */
      cancel: {
        params: { id: 'string' },
        async handler(this: any, ctx: Context<{ id: string }>) {
          let dropped: DroppedUpload[] = []
          const cancel = (file: FileRecord, now: number) => {
            dropped = machine.droppedUploads(file)
            return machine.cancel(file, now)
          }
          const file = await this.changeByHand(ctx, ctx.params.id, cancel, 'be cancelled')
          ctx.broadcast('file.cancelled', { id: file._id })
          this.drop(ctx, dropped)
          return file
        }
      },

      /** Tries every `failed` file again, of one server or of all. Answers `{retried}`. */
      retryFailed: {
        params: { serverId: 'string|optional' },
        async handler(this: any, ctx: Context<{ serverId?: string }>) {
          const retried = await this.records.retryFailed(ctx.params.serverId, Date.now())
          ctx.emit('file.pending', {})
          return { retried }
        }
      },

      /** Makes the announcement due again without changing the state. CONFLICT for a file that is not stored. */
      notify: {
        params: { id: 'string' },
        async handler(this: any, ctx: Context<{ id: string }>) {
          const file = await this.changeByHand(ctx, ctx.params.id, machine.announceAgain, 'be announced')
          ctx.emit('file.uploaded', { serverId: file.serverId })
          return file
        }
      },

      /** Counts and bytes by state, the backlog and its age, due announcements; of one server or of all. */
      stats: {
        params: { serverId: 'string|optional' },
        handler(this: any, ctx: Context<{ serverId?: string }>) {
          return this.records.stats(ctx.params.serverId, Date.now())
        }
      },

      /** Files of a server that a worker is copying now. */
      inFlight: {
        params: { serverId: 'string' },
        handler(this: any, ctx: Context<{ serverId: string }>) {
          return this.collection.count({ serverId: ctx.params.serverId, status: 'downloading' } satisfies Query)
        }
      },

      /** A removed server: what is not stored becomes `skipped`, what is in flight is fenced out. */
      abandon: {
        params: { serverId: 'string' },
        async handler(this: any, ctx: Context<{ serverId: string }>) {
          const { abandoned, dropped } = await this.records.abandon(ctx.params.serverId, Date.now())
          this.drop(ctx, dropped)
          return { abandoned }
        }
      },

      /** Records of a server for a purge, in pages by id: `[{id, key, isStored}]`; `removeEach` drops them. */
      purgePage: {
        params: { serverId: 'string', after: 'string' },
        async handler(this: any, ctx: Context<{ serverId: string; after: string }>) {
          const { serverId, after } = ctx.params
          const query: Query = { serverId, _id: { $gt: after } }
          const files: FileRecord[] = await this.collection.find(query, { sort: { _id: 1 }, limit: 200 })
          return files.map(({ _id: id, reservedKey: key = null, object }) => ({ id, key, isStored: object !== null }))
        }
      },
      removeEach: {
        params: { ids: { type: 'array', items: 'string' } },
        handler(this: any, ctx: Context<{ ids: string[] }>) {
          return this.collection.removeByIds(ctx.params.ids)
        }
      },

      /** Whether the database answers. */
      ping: {
        async handler(this: any) {
          await this.collection.ping()
          return true
        }
      }
    },

    methods: {
      openDatabase(): Promise<Database> {
        return openDatabase(config)
      },

      /**
       * A scan that ends late may report files of a server that was removed meanwhile. Asked after they are written, not
       * before: either the removal still finds them, or this finds the removal.
       */
      async abandonIfRemoved(ctx: Context, serverId: string): Promise<void> {
        try {
          await ctx.call('servers.get', { id: serverId })
        } catch (error) {
          if ((error as IngestError).type !== 'NOT_FOUND') throw error
          const { dropped } = await this.records.abandon(serverId, Date.now())
          this.drop(ctx, dropped)
        }
      },

      /** Uploads that nobody goes on with are aborted at once where the store is there, else by the sweep. */
      drop(ctx: Context, uploads: DroppedUpload[]): void {
        for (let at = 0; at < uploads.length; at += DROPPED_AT_ONCE) {
          ctx.emit('upload.dropped', { uploads: uploads.slice(at, at + DROPPED_AT_ONCE) })
        }
      },

      /** The embedded database keeps its records in memory; what one takes is measured by bench/embedded-memory.ts. */
      async warnOfMemory(): Promise<void> {
        const records: number = await this.collection.count({})
        if (records < MANY_EMBEDDED_RECORDS) return
        const mebibytes = Math.round((records * EMBEDDED_RECORD_BYTES) / 1024 ** 2)
        this.logger.warn(
          `the embedded database holds ${records} records, about ${mebibytes} MiB of memory: set MONGO_URL`
        )
      },

      /** Throws CONFLICT where the source of a stored file cannot be this version's any more. */
      async expectSource(ctx: Context, file: FileRecord): Promise<void> {
        const latest: number = await this.records.latestVersion(file)
        const isNewer = latest > file.version
        if (isNewer)
          throw new IngestError('CONFLICT', `version ${latest} came after it; only the latest can be fetched`)
        if (file.released) throw new IngestError('CONFLICT', 'its source was deleted, moved or replaced after the copy')
        await ctx.call('servers.get', { id: file.serverId }).catch((error: IngestError) => {
          throw error.type === 'NOT_FOUND' ? new IngestError('CONFLICT', 'its server was removed') : error
        })
      },

      /** After a record at rest was opened: scanners may remember that there is nothing to do for it. */
      async moveGeneration(ctx: Context, serverId: string): Promise<void> {
        const moved = ctx.call('servers.moveGeneration', { id: serverId })
        await moved.catch((error) => this.logger.warn(`${serverId}: scanners could not be told: ${error.message}`))
      },

      async changeByHand(ctx: Context, id: string, change: (file: FileRecord, now: number) => FileRecord | null, what) {
        let wasAtRest = false
        const file = await mutate<FileRecord>(this.collection, id, (current) => {
          wasAtRest = isAtRest(current)
          return change(current, Date.now())
        })
        if (file) {
          if (wasAtRest && !isAtRest(file)) await this.moveGeneration(ctx, file.serverId)
          ctx.emit('file.pending', { serverId: file.serverId })
          return withoutHistory(file)
        }
        const [there] = await this.collection.findByIds([id])
        if (!there) throw new IngestError('NOT_FOUND', `there is no file ${id}`)
        throw new IngestError('CONFLICT', refusedByHand(there, what, Date.now()))
      }
    },

    async started(this: any) {
      this.records = new FileRecords(this.collection, { keyOf: objectKey, otherKeyOf: alternativeKey })
      const freed = this.database.isTakenOver?.('files') ? await freeFiles(this.records, Date.now()) : null
      if (freed) this.logger.info(freed)
      if (config.embedded) await this.warnOfMemory()
    }
  } as ServiceSchema & ThisType<FilesService>
}

function withoutHistory(file: FileRecord): Omit<FileRecord, 'history'> {
  const { history, ...rest } = file
  return rest
}

function asStep({ _id, path, size, mtime, afterUpload }: FileRecord): AfterUploadStep {
  return { id: _id, epoch: afterUpload!.epoch, path, size, mtime }
}

/** What travels to a worker stays small: which parts are there the store itself says best. */
function asOrder(file: FileRecord) {
  const rest = withoutHistory(file)
  return rest.upload ? { ...rest, upload: { ...rest.upload, parts: [] } } : rest
}
