/** Claims files and moves them: SFTP to the object store. Holds one connection for each server that it drains. */
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import { blameOf, IngestError, recordedError } from '../domain/errors.ts'
import { type FileRecord, RENEW_MS } from '../domain/file.ts'
import { byPriority, type Priorities, urgentOf } from '../domain/priority.ts'
import { addressPolicy } from '../drivers/sftp/address.ts'
import { connectSftp } from '../drivers/sftp/connection.ts'
import type { ConnectOptions, Sftp, SftpTarget } from '../drivers/sftp/sftp.ts'
import { openStore } from '../drivers/store/open.ts'
import type { ObjectStore } from '../drivers/store/store.ts'
import { tickerMixin } from '../mixins/ticker.mixin.ts'
import { type Connector, connectToServer } from '../workers/connect.ts'
import { type Copying, concurrencyFor, Drain, SELF_STOP_MS } from '../workers/drain.ts'
import type { Finished } from '../workers/finisher.ts'
import { persistently } from '../workers/persistently.ts'
import type { WorkOrder } from './servers.service.ts'

const MAX_SERVERS = 8
/** A changed priority counts after this. */
const PRIORITIES_MS = 10_000
/** A finished copy is reported for as long as its lease may last; after that the next claim finds the object. */
const REPORT_FOR_MS = 20_000
const DRAIN_MS = 15_000

interface Stay {
  slotId: string
  drain: Drain | null
  ended: Promise<void>
}

export function transferService(config: Config): ServiceSchema {
  return {
    name: 'transfer',
    dependencies: ['servers', 'files'],
    mixins: [
      tickerMixin({ name: 'work', everyMs: 2_000, action: 'transfer.takeWork' }),
      tickerMixin({ name: 'renew', everyMs: RENEW_MS / 2, action: 'transfer.renew' })
    ],

    actions: {
      /** Begins to drain servers that have something to copy, as far as there is room. */
      takeWork: {
        async handler(this: any, ctx: Context) {
          if (this.leaving) return
          const priorities = await this.currentPriorities(ctx)
          const request = { after: this.cursor, limit: MAX_SERVERS * 2, first: urgentOf(priorities) }
          const { urgent, others } = await ctx.call<Record<'urgent' | 'others', string[]>, object>(
            'files.work',
            request
          )
          // Round and round, so that no server waits for ever behind those with smaller ids.
          this.cursor = others.at(-1) ?? ''
          for (const id of byPriority([...urgent, ...others], priorities)) {
            if (this.stays.size >= MAX_SERVERS) break
            if (!this.stays.has(id)) await this.arrive(id)
          }
        }
      },

      /** Renews every file and every connection slot of this worker, each kind in one call. */
      renew: {
        async handler(this: any, ctx: Context) {
          const copying: [Drain, Copying][] = [...this.stays.values()].flatMap(({ drain }: Stay) =>
            drain ? [...drain.copying.values()].map((one) => [drain, one] as [Drain, Copying]) : []
          )
          try {
            await Promise.all([this.renewFiles(ctx, copying), this.renewSlots(ctx)])
          } finally {
            for (const [drain, { file, renewedAt }] of copying) {
              const age = Date.now() - renewedAt
              if (age > SELF_STOP_MS) drain.giveUp(file._id, `the lease could not be renewed for ${age} ms`)
            }
          }
        }
      },

      /** What this worker is copying now. */
      status: {
        handler(this: any) {
          return [...this.stays.values()].flatMap(({ drain }: Stay) =>
            [...(drain?.copying.values() ?? [])].map(({ file, bytes }) => ({ id: file._id, path: file.path, bytes }))
          )
        }
      }
    },

    events: {
      'file.pending'(this: any) {
        this.workNow()
      },
      'file.cancelled'(this: any, ctx: Context<{ id: string }>) {
        for (const { drain } of this.stays.values() as Iterable<Stay>) drain?.giveUp(ctx.params.id, 'cancelled')
      }
    },

    methods: {
      /** Asked for now and then; old ones will do for a while, or none. */
      async currentPriorities(ctx: Context): Promise<Priorities> {
        if (Date.now() - this.prioritiesAt < PRIORITIES_MS) return this.priorities
        this.prioritiesAt = Date.now()
        this.priorities = await ctx.call<Priorities, object>('servers.priorities', {}).catch(() => this.priorities)
        return this.priorities
      },

      openStore(): ObjectStore {
        return openStore(config)
      },

      openSftp(target: SftpTarget, options: ConnectOptions): Promise<Sftp> {
        return connectSftp(target, options)
      },

      async arrive(id: string): Promise<void> {
        const request = { id, kind: 'transfer', holder: this.worker }
        const { slotId, order }: any = await this.broker.call('servers.takeSlot', request)
        if (!slotId) return
        const stay: Stay = { slotId, drain: null, ended: Promise.resolve() }
        this.stays.set(id, stay)
        stay.ended = this.stay(id, stay, order).finally(() => {
          this.stays.delete(id)
          this.broker.call('servers.releaseSlot', { id, slotId }).catch(() => undefined)
        })
      },

      /** One stay at one server, from the connection to the last file. */
      async stay(id: string, stay: Stay, order: WorkOrder): Promise<void> {
        let copied = 0
        try {
          const sftp = await connectToServer(this.connector, order.target, this.stop.signal)
          try {
            stay.drain = new Drain(sftp, this.store, this.ports(id, order.policy.keyTemplate), {
              checksum: order.policy.checksum,
              concurrency: concurrencyFor(sftp.latencyMs),
              signal: this.stop.signal
            })
            if (this.leaving) stay.drain.leave()
            copied = await stay.drain.run()
          } finally {
            await sftp.close()
          }
          // What came while the last file travelled is seen by a look of its own, not only by the next bell.
          if (copied > 0) setImmediate(() => this.workNow())
        } catch (error) {
          await this.stayFailed(id, order, error)
        }
      },

      async stayFailed(id: string, order: WorkOrder, error: unknown): Promise<void> {
        if (this.stop.signal.aborted) return
        this.logger.warn(`${order.name}: ${(error as Error).message}`)
        if (!['server', 'stop'].includes(blameOf(error))) return
        const report = { id, error: recordedError(error, Date.now()) }
        await this.broker.call('servers.failed', report).catch(() => undefined)
      },

      ports(serverId: string, keyTemplate: string) {
        const call = <R>(action: string, params: object): Promise<R> =>
          persistently(REPORT_FOR_MS, () => this.broker.call(action, params))
        const holdOf = (file: FileRecord) => ({ id: file._id, epoch: file.epoch })
        return {
          now: Date.now,
          claim: (limit: number) =>
            this.broker.call('files.claim', { serverId, worker: this.worker, limit, keyTemplate }),
          keepUpload: (file: FileRecord, upload: object | null) =>
            call('files.keepUpload', { ...holdOf(file), upload }),
          finish: async (file: FileRecord, outcome: object) => {
            await call('files.finish', { ...holdOf(file), outcome })
          },
          finishEach: async (finished: Finished[]) => {
            await call('files.finishEach', {
              ends: finished.map(({ file, outcome }) => ({ ...holdOf(file), outcome }))
            })
          }
        }
      },

      async renewFiles(ctx: Context, copying: [Drain, Copying][]): Promise<void> {
        if (copying.length === 0) return
        const now = Date.now()
        const holds = copying.map(([, { file, bytes, startedAt }]) => {
          const bytesPerSecond = Math.round((bytes * 1000) / Math.max(1, now - startedAt))
          return { id: file._id, epoch: file.epoch, progress: { bytes, bytesPerSecond } }
        })
        const { lost } = await ctx.call<{ lost: string[] }, object>('files.renew', { holds })
        for (const [drain, one] of copying) {
          if (lost.includes(one.file._id)) drain.giveUp(one.file._id, 'another worker holds the file')
          else one.renewedAt = now
        }
      },

      async renewSlots(ctx: Context): Promise<void> {
        const stays: [string, Stay][] = [...this.stays]
        if (stays.length === 0) return
        const slots = stays.map(([serverId, { slotId }]) => ({ serverId, slotId }))
        const { lost, wanted } = await ctx.call<{ lost: string[]; wanted: string[] }, object>('servers.renewSlots', {
          slots
        })
        for (const [, { slotId, drain }] of stays) {
          if (lost.includes(slotId) || wanted.includes(slotId)) drain?.leave()
        }
      }
    },

    created(this: any) {
      this.worker = `${this.broker.nodeID}/transfer`
      this.stays = new Map()
      this.cursor = ''
      this.priorities = {}
      this.prioritiesAt = 0
      this.leaving = false
      this.stop = new AbortController()
    },

    async started(this: any) {
      this.store = this.openStore()
      const resolveAddress = addressPolicy({ allow: config.allowNetworks, deny: config.denyNetworks })
      this.connector = {
        encryptionKey: config.encryptionKey,
        resolveAddress,
        open: this.openSftp,
        pinHostKey: (id, hostKey) => this.broker.call('servers.pinHostKey', { id, hostKey })
      } satisfies Connector
    },

    /** Claims nothing more, goes on with what is in flight for a while, then hands it back with its parts kept. */
    async stopped(this: any) {
      this.leaving = true
      const stays: Stay[] = [...this.stays.values()]
      for (const { drain } of stays) drain?.leave()
      const ended = Promise.allSettled(stays.map((stay) => stay.ended))
      const deadline = setTimeout(
        () => this.stop.abort(new IngestError('CANCELLED', 'the worker is stopping')),
        DRAIN_MS
      )
      await ended
      clearTimeout(deadline)
      await this.store?.close()
    }
  } as ServiceSchema
}
