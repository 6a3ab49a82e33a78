/**
 * The registry of SFTP servers: address and sealed credentials, policy, schedule, connection slots. Decides who is
 * due for a scan and who may connect; every decision about time is made here, by this service's clock.
 */
import { randomUUID } from 'node:crypto'
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import { blameOf, IngestError, type RecordedError } from '../domain/errors.ts'
import type { Priorities } from '../domain/priority.ts'
import type { ScanSummary, ServerRecord, Slot } from '../domain/server.ts'
import * as registry from '../domain/server.ts'
import { checkServer, newServer, type ServerInput } from '../domain/server-input.ts'
import type { Index, Query } from '../drivers/db/collection.ts'
import { openDatabase } from '../drivers/db/connection.ts'
import type { Database } from '../drivers/db/database.ts'
import { freeServers } from '../drivers/db/dead-leases.ts'
import { mutate, mutateEach } from '../drivers/db/mutate.ts'
import { failpoint } from '../drivers/failpoint.ts'
import { collectionMixin } from '../mixins/collection.mixin.ts'
import { tickerMixin } from '../mixins/ticker.mixin.ts'
import type { ServerTarget } from '../workers/connect.ts'
import type { ScanHold } from '../workers/running-scans.ts'

// By time first: nearly all servers are active, and NeDB goes by the first field alone.
const serverIndexes: Index[] = [
  { fields: { name: 1 }, unique: true },
  { fields: { nextScanAt: 1, state: 1 } },
  { fields: { priority: 1 } },
  // Only removed servers that are not cleared away have this field.
  { fields: { 'removal.dueAt': 1 }, partial: { 'removal.dueAt': { $exists: true } } }
]

const REMOVALS_AT_ONCE = 20
/** Longer than a purge goes on at a time. */
const CLEAR_MS = 20_000

/** NATS carries 1 MiB at most. */
const MESSAGE_BYTES = 512 * 1024

/** What a scanner or a worker needs of a server: policy, address, sealed secrets. */
export interface WorkOrder {
  target: ServerTarget
  name: string
  policy: registry.ServerPolicy
  scanEpoch: number
  /** Failed scans in a row before this one. */
  failures: number
  generation: number
}

/** A scan that was claimed, with its connection where one was free. */
export interface ScanOrder extends WorkOrder {
  slotId: string | null
}

function workOrder(server: ServerRecord): WorkOrder {
  const { host, port, username, hostKey, algorithms, secrets } = server
  return {
    target: { id: server._id, host, port, username, hostKey, algorithms, secrets },
    name: server.name,
    policy: registry.policyOf(server),
    scanEpoch: server.scanEpoch,
    failures: server.failures,
    generation: server.generation
  }
}

function scanOrder(server: ServerRecord, slotId: string): ScanOrder {
  return { ...workOrder(server), slotId: server.slots.some((slot) => slot.id === slotId) ? slotId : null }
}

const byId = { id: 'string' }

export function serversService(config: Config): ServiceSchema {
  return {
    name: 'servers',
    mixins: [
      collectionMixin({
        name: 'servers',
        indexes: serverIndexes,
        ifLost: 'Look at the servers: one may be missing or have older settings, and has to be given again'
      }),
      tickerMixin({ name: 'clearAway', everyMs: 5_000, action: 'servers.clearAway' })
    ],

    actions: {
      /** Registers a server whose secrets are sealed already. CONFLICT when the name is taken. */
      create: {
        params: { id: 'string', input: 'object', secrets: 'object' },
        async handler(this: any, ctx: Context<{ id: string; input: ServerInput; secrets: ServerRecord['secrets'] }>) {
          const server = newServer(ctx.params.id, ctx.params.input, ctx.params.secrets, Date.now())
          const inserted = await this.collection.insertNew([server])
          if (inserted.size === 0) throw nameTaken(server.name)
          ctx.broadcast('server.due', {})
          return server
        }
      },

      /** Changes fields; `secrets` replaces the given ones. STALE_REVISION when `edition` is given and is another one. */
      update: {
        params: { ...byId, input: 'object', secrets: 'object', edition: 'number|optional' },
        async handler(this: any, ctx: Context<any>) {
          const { id, input, secrets, edition } = ctx.params
          const server = await this.change(id, (current: ServerRecord) => {
            if (edition !== undefined && edition !== current.edition) throw staleEdition(current.edition)
            const changed = registry.updateServer(current, input, secrets, Date.now(), Math.random())
            checkServer({ ...changed, timezone: input.timezone ?? changed.timezone })
            return changed
          }).catch((error: IngestError) => {
            throw error.type === 'CONFLICT' && input.name ? nameTaken(input.name) : error
          })
          ctx.broadcast('server.due', {})
          return server
        }
      },

      get: {
        params: byId,
        handler(this: any, ctx: Context<{ id: string }>) {
          return this.require(ctx.params.id)
        }
      },

      /** By id or by name. NOT_FOUND. */
      resolve: {
        params: { ref: 'string' },
        async handler(this: any, ctx: Context<{ ref: string }>) {
          const { ref } = ctx.params
          const [server] = await this.collection.find({ $or: [{ _id: ref }, { name: ref }], deletedAt: null })
          if (!server) throw new IngestError('NOT_FOUND', `there is no server ${ref}`)
          return server
        }
      },

      /** The number of its newest scan, which may be under way; 0 of a server that is not there. */
      scanEpoch: {
        params: byId,
        async handler(this: any, ctx: Context<{ id: string }>): Promise<number> {
          const [server] = await this.collection.find({ _id: ctx.params.id }, { limit: 1, omit: ['secrets'] })
          return server?.scanEpoch ?? 0
        }
      },

      list: {
        handler(this: any) {
          return this.collection.find({ deletedAt: null }, { sort: { name: 1 } })
        }
      },

      /** The servers whose priority is not 0, at most a thousand of each side. `Priorities`. */
      priorities: {
        async handler(this: any) {
          const some = (priority: object): Promise<ServerRecord[]> =>
            this.collection.find(
              { priority, deletedAt: null },
              { sort: { priority: -1 }, limit: 1000, omit: ['secrets'] }
            )
          const found = (await Promise.all([some({ $gt: 0 }), some({ $lt: 0 })])).flat()
          return Object.fromEntries(found.map(({ _id, priority }) => [_id, priority])) satisfies Priorities
        }
      },

      stats: {
        async handler(this: any) {
          const alive = { deletedAt: null }
          const [total, failing, stopped, paused] = await Promise.all([
            this.collection.count(alive),
            this.collection.count({ ...alive, state: 'active', failures: { $gt: 0 } }),
            this.collection.count({ ...alive, state: 'stopped' }),
            this.collection.count({ ...alive, state: 'paused' })
          ])
          return { total, failing: failing + stopped, paused }
        }
      },

      pause: {
        params: byId,
        handler(this: any, ctx: Context<{ id: string }>) {
          return this.change(ctx.params.id, (server: ServerRecord) => registry.pause(server, Date.now()))
        }
      },

      /** Also starts a stopped server again. */
      resume: {
        params: byId,
        async handler(this: any, ctx: Context<{ id: string }>) {
          const server = await this.change(ctx.params.id, (current: ServerRecord) =>
            registry.resume(current, Date.now(), Math.random())
          )
          ctx.broadcast('server.due', {})
          ctx.emit('file.pending', { serverId: server._id })
          return server
        }
      },

      /**
       * Due servers, claimed under a lease with their connection; each goes to one scanner. `ScanOrder[]`. Of those that
       * failed at most `failingLimit`, but they come first: neither kind keeps the other waiting.
       */
      claimDue: {
        params: { limit: 'number', failingLimit: 'number', scanner: 'string' },
        async handler(this: any, ctx: Context<{ limit: number; failingLimit: number; scanner: string }>) {
          const { limit, failingLimit, scanner } = ctx.params
          const now = Date.now()
          const oldest = async (failures: object | number, most: number): Promise<ServerRecord[]> =>
            most > 0
              ? this.collection.find(dueFor(scanner, failures, now), { sort: { nextScanAt: 1 }, limit: most })
              : []
          const due = await oldest({ $gt: 0 }, Math.min(limit, failingLimit))
          due.push(...(await oldest(0, limit - due.length)))
          const pairs = fittingOneMessage(due.filter((from) => registry.isScanDue(from, now))).map((from) => {
            const slot = { id: randomUUID(), holder: scanner, kind: 'scan' as const }
            return { from, to: registry.claimScan(from, slot, now, Math.random()), slotId: slot.id }
          })
          const won: boolean[] = pairs.length > 0 ? await this.collection.replaceEach(pairs) : []
          return pairs.filter((_, index) => won[index]).map(({ to, slotId }) => scanOrder(to, slotId))
        }
      },

      /** Claims one server's scan now. null while it is being scanned already; CONFLICT unless it is active. */
      claimScan: {
        params: { ...byId, scanner: 'string' },
        async handler(this: any, ctx: Context<{ id: string; scanner: string }>) {
          const now = Date.now()
          const before: ServerRecord = await this.require(ctx.params.id)
          if (before.state !== 'active') {
            throw new IngestError('CONFLICT', `the server ${before.name} is ${before.state}; resume it first`)
          }
          const slot = { id: randomUUID(), holder: ctx.params.scanner, kind: 'scan' as const }
          const server = await mutate<ServerRecord>(this.collection, before._id, (current) =>
            current.state === 'active' && current.scanLeaseUntil <= now
              ? registry.claimScan(current, slot, now, Math.random())
              : null
          )
          return server ? scanOrder(server, slot.id) : null
        }
      },

      /** Keeps the leases of all scans of one scanner. Answers the ids of servers whose scan it has lost. */
      renewScans: {
        params: { scans: { type: 'array', items: { type: 'object' } } },
        async handler(this: any, ctx: Context<{ scans: ScanHold[] }>) {
          const { scans } = ctx.params
          const kept = await mutateEach<ServerRecord, ScanHold>(
            this.collection,
            scans,
            ({ id }) => id,
            (server, { scanEpoch, slotId }) => registry.renewScan(server, scanEpoch, slotId, Date.now())
          )
          const ids = new Set(kept.map(({ _id }) => _id))
          return { lost: scans.filter(({ id }) => !ids.has(id)).map(({ id }) => id) }
        }
      },

      /** A scanner that stops gives its scans back, for others to begin at once. */
      giveScansBack: {
        params: { scans: { type: 'array', items: { type: 'object' } } },
        async handler(this: any, ctx: Context<{ scans: ScanHold[] }>) {
          await mutateEach<ServerRecord, ScanHold>(
            this.collection,
            ctx.params.scans,
            ({ id }) => id,
            (server, { scanEpoch, slotId }) => {
              const free = registry.giveScanBack(server, scanEpoch, Date.now())
              return free && slotId ? registry.releaseSlot(free, slotId) : free
            }
          )
          ctx.broadcast('server.due', {})
        }
      },

      /** A scan ended by a fault of Longshore: it says nothing about the server, and is tried again soon. */
      scanGivenUp: {
        params: { ...byId, scanEpoch: 'number', slotId: 'string|optional', error: 'object' },
        async handler(
          this: any,
          ctx: Context<{ id: string; scanEpoch: number; slotId?: string; error: RecordedError }>
        ) {
          const { id, scanEpoch, slotId, error } = ctx.params
          await mutate<ServerRecord>(this.collection, id, (current) => {
            const server = slotId ? registry.releaseSlot(current, slotId) : current
            return registry.giveScanBack(server, scanEpoch, Date.now() + registry.SCAN_AGAIN_MS) ?? server
          })
          ctx.broadcast('server.scanned', { serverId: id, scanEpoch, error })
        }
      },

      /** What scanners remember of the server's files is void: a record was opened again or removed by hand. */
      moveGeneration: {
        params: byId,
        async handler(this: any, ctx: Context<{ id: string }>) {
          await mutate<ServerRecord>(this.collection, ctx.params.id, registry.moveGeneration)
        }
      },

      /** A scan ended; its connection is free again. */
      scanDone: {
        params: {
          ...byId,
          scanEpoch: 'number',
          slotId: 'string|optional',
          summary: 'object',
          problem: { type: 'object', nullable: true }
        },
        async handler(this: any, ctx: Context<any>) {
          const { id, scanEpoch, slotId, problem } = ctx.params
          const summary: ScanSummary = ctx.params.summary
          await mutate<ServerRecord>(this.collection, id, (current) => {
            const server = slotId ? registry.releaseSlot(current, slotId) : current
            if (server.scanEpoch !== scanEpoch) return server
            return registry.scanSucceeded(server, summary, problem, Date.now())
          })
          ctx.broadcast('server.scanned', { serverId: id, scanEpoch, summary })
        }
      },

      /** A connection or scan failed: back off, or stop the server where going on could lock the account out, and alert. */
      failed: {
        params: { ...byId, error: 'object', scanEpoch: 'number|optional', slotId: 'string|optional' },
        async handler(
          this: any,
          ctx: Context<{ id: string; error: RecordedError; scanEpoch?: number; slotId?: string }>
        ) {
          const { id, error, scanEpoch, slotId } = ctx.params
          const stop = blameOf(error) === 'stop'
          let wasActive = false
          const failed = await mutate<ServerRecord>(this.collection, id, (current) => {
            if (current.deletedAt) return null
            wasActive = false
            const server = slotId ? registry.releaseSlot(current, slotId) : current
            if (scanEpoch !== undefined && server.scanEpoch !== scanEpoch) return server
            wasActive = server.state === 'active'
            const how = { ended: scanEpoch !== undefined, random: Math.random() }
            return registry.serverFailed(server, error, stop, Date.now(), how)
          })
          if (failed && stop && wasActive) this.alert(ctx, failed, error)
          ctx.broadcast('server.scanned', { serverId: id, scanEpoch: scanEpoch ?? null, error })
        }
      },

      /**
       * Leases one of the server's connections. `{slotId, order, bytesPerSecond}`, or `{slotId: null, reason}` when there
       * is none now.
       */
      takeSlot: {
        params: { ...byId, kind: { type: 'enum', values: [...registry.SLOT_KINDS] }, holder: 'string' },
        async handler(this: any, ctx: Context<{ id: string; kind: Slot['kind']; holder: string }>) {
          const { id, kind, holder } = ctx.params
          const slot = { id: randomUUID(), holder, kind }
          let reason = ''
          const server = await mutate<ServerRecord>(this.collection, id, (current) => {
            reason = registry.refusalOf(current, kind, Date.now())
            if (reason) return registry.wantSlot(current, kind, Date.now())
            return registry.takeSlot(current, slot, Date.now())
          })
          if (reason && registry.isInUse(reason)) ctx.broadcast('server.wanted', { serverId: id, kind })
          if (!server || reason) return { slotId: null, reason: reason || 'no such server' }
          const bytesPerSecond = registry.bandwidthShare(server, Date.now())
          return { slotId: slot.id, order: workOrder(server), bytesPerSecond }
        }
      },

      /** Goes on with a connection that was kept: its slot renewed, the order as it is now; null when it is to be given back. */
      keepSlot: {
        params: { ...byId, slotId: 'string' },
        async handler(this: any, ctx: Context<{ id: string; slotId: string }>) {
          const { id, slotId } = ctx.params
          const server = await mutate<ServerRecord>(this.collection, id, (current) =>
            registry.keepSlot(current, slotId, Date.now())
          )
          return server ? workOrder(server) : null
        }
      },

      /**
       * All slots of one worker in one call. `{lost, wanted, shares}`: slots that are gone, slots that somebody else waits
       * for, and what each slot may read a second now (null: no limit).
       */
      renewSlots: {
        params: { slots: { type: 'array', items: { type: 'object' } } },
        async handler(this: any, ctx: Context<{ slots: { serverId: string; slotId: string }[] }>) {
          const lost: string[] = []
          const wanted: string[] = []
          const shares: Record<string, number | null> = {}
          for (const { serverId, slotId } of ctx.params.slots) {
            const now = Date.now()
            const server = await mutate<ServerRecord>(this.collection, serverId, (current) =>
              registry.renewSlot(current, slotId, now)
            )
            if (!server) lost.push(slotId)
            else shares[slotId] = registry.bandwidthShare(server, now)
            if (server && server.slotWantedUntil > now) wanted.push(slotId)
          }
          return { lost, wanted, shares }
        }
      },

      releaseSlot: {
        params: { ...byId, slotId: 'string' },
        async handler(this: any, ctx: Context<{ id: string; slotId: string }>) {
          await mutate<ServerRecord>(this.collection, ctx.params.id, (server) =>
            registry.releaseSlot(server, ctx.params.slotId)
          )
        }
      },

      /** Pins the first key seen; answers the pinned one. */
      pinHostKey: {
        params: { ...byId, hostKey: 'string' },
        async handler(this: any, ctx: Context<{ id: string; hostKey: string }>) {
          const server = await this.change(ctx.params.id, (current: ServerRecord) =>
            current.hostKey ? current : { ...current, hostKey: ctx.params.hostKey }
          )
          return server.hostKey
        }
      },

      /** An operator approves a new or changed key; a server that was stopped by it starts again. */
      approveHostKey: {
        params: { ...byId, hostKey: 'string' },
        handler(this: any, ctx: Context<{ id: string; hostKey: string }>) {
          return this.change(ctx.params.id, (server: ServerRecord) =>
            registry.resume({ ...server, hostKey: ctx.params.hostKey }, Date.now())
          )
        }
      },

      /** Removes a server: a tombstone first, so that what is in flight is fenced out, then its files. CONFLICT while files are in flight unless `force`. */
      remove: {
        params: { ...byId, force: 'boolean|optional', purge: 'boolean|optional' },
        async handler(this: any, ctx: Context<{ id: string; force?: boolean; purge?: boolean }>) {
          const { id, force, purge } = ctx.params
          const server = await this.require(id)
          const inFlight = force ? 0 : await ctx.call<number, { serverId: string }>('files.inFlight', { serverId: id })
          if (inFlight > 0) {
            const message = `${inFlight} files of ${server.name} are in flight; wait, pause the server, or use force=true`
            throw new IngestError('CONFLICT', message)
          }
          await this.change(id, (current: ServerRecord) => registry.tombstone(current, Date.now(), purge))
          await failpoint('after-tombstone')
          this.clearAwayNow()
          return server
        }
      },

      /** Goes on with what removed servers have left: files that were not stored, and, to be purged, all others. */
      clearAway: {
        visibility: 'public',
        timeout: 0,
        async handler(this: any, ctx: Context) {
          const due = { 'removal.dueAt': { $lte: Date.now() } }
          const removed: ServerRecord[] = await this.collection.find(due, { limit: REMOVALS_AT_ONCE })
          for (const { _id: serverId, removal } of removed) {
            const { purge, passes } = removal!
            // A question that is lost is asked again: neither would wait for ever, and both go on from where they were.
            await ctx.call('files.abandon', { serverId }, { timeout: CLEAR_MS })
            // Where a worker may still be about to write, the record stays for the next pass to find it.
            const request = { serverId, unstored: passes > 0 }
            if (purge && !(await ctx.call('storage.purge', request, { timeout: CLEAR_MS }))) continue
            await mutate<ServerRecord>(this.collection, serverId, (current) => registry.removalPassed(current, passes))
          }
        }
      },

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

      /** Once for each stop: `server.stopped` for whoever watches, and an error in the log. */
      alert(ctx: Context, { _id, name }: ServerRecord, error: RecordedError): void {
        this.logger.error(`the server ${name} was stopped until an operator mends it: ${error.message}`)
        ctx.broadcast('server.stopped', { serverId: _id, serverName: name, error })
      },

      async require(id: string): Promise<ServerRecord> {
        const [server] = await this.collection.findByIds([id])
        if (!server || server.deletedAt) throw new IngestError('NOT_FOUND', `there is no server ${id}`)
        return server
      },

      async change(id: string, change: (server: ServerRecord) => ServerRecord): Promise<ServerRecord> {
        const server = await mutate<ServerRecord>(this.collection, id, (current) =>
          current.deletedAt ? null : change(current)
        )
        if (!server) throw new IngestError('NOT_FOUND', `there is no server ${id}`)
        return server
      }
    },

    async started(this: any) {
      const freed = this.database.isTakenOver?.('servers') ? await freeServers(this.collection, Date.now()) : null
      if (freed) this.logger.info(freed)
    }
  } as ServiceSchema
}

/** As many of them as one message of 512 KiB carries, and one at least: patterns and keys may be long. */
function fittingOneMessage(servers: ServerRecord[]): ServerRecord[] {
  let bytes = 0
  return servers.filter((server, index) => {
    bytes += Buffer.byteLength(JSON.stringify(server))
    return index === 0 || bytes <= MESSAGE_BYTES
  })
}

/** A scan that is due waits a moment for the scanner that knows the server. */
function dueFor(scanner: string, failures: object | number, now: number): Query {
  const anybody = { nextScanAt: { $lte: now - registry.AFFINITY_MS } }
  return {
    nextScanAt: { $lte: now },
    scanLeaseUntil: { $lte: now },
    state: 'active',
    failures,
    $or: [{ lastScanner: scanner }, { lastScanner: null }, anybody]
  }
}

function nameTaken(name: string): IngestError {
  const data = { errors: [{ field: 'name', message: 'is taken by another server' }] }
  return new IngestError('CONFLICT', `name: there is a server named ${name} already`, { data })
}

function staleEdition(edition: number): IngestError {
  return new IngestError('STALE_REVISION', `the server was changed meanwhile; its ETag is now "${edition}"`)
}
