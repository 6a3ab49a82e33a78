/** Claims files and moves them: SFTP to the object store. Holds one connection for each server that it drains. */
import { isDeepStrictEqual } from 'node:util'
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import { blameOf, errorType, recordedError } from '../domain/errors.ts'
import { type FileRecord, RENEW_MS } from '../domain/file-record.ts'
import { type Priorities, urgentOf } from '../domain/priority.ts'
import { addressPolicy } from '../drivers/sftp/address.ts'
import { connectSftp } from '../drivers/sftp/connection.ts'
import { nativeBindingFault } from '../drivers/sftp/native-binding.ts'
import type { ConnectOptions, Pace, Sftp, SftpTarget } from '../drivers/sftp/sftp.ts'
import { openStore } from '../drivers/store/open.ts'
import type { ObjectStore } from '../drivers/store/store.ts'
import { tickerMixin } from '../mixins/ticker.mixin.ts'
import { Bandwidth } from '../workers/bandwidth.ts'
import { type Connector, connectToServer } from '../workers/connect.ts'
import { Departure } from '../workers/departure.ts'
import { type Copying, Drain, FILES_AT_ONCE, SELF_STOP_MS } from '../workers/drain.ts'
import type { Finished } from '../workers/finisher.ts'
import { handoverOf, type Reservation } from '../workers/handover.ts'
import { Linger } from '../workers/linger.ts'
import { MemoryBudget } from '../workers/memory-budget.ts'
import { persistently } from '../workers/persistently.ts'
import { Turns } from '../workers/turns.ts'
import type { WorkOrder } from './servers.service.ts'

/** A connection is kept for so long after its last file, if nobody wants its slot; and so many at most. */
const LINGER_MS = 5_000
const MAX_LINGERING = 8
/** A changed priority counts after this. */
const PRIORITIES_MS = 10_000
/** A turn is short enough for another server's single file to be stored within 2 s, connecting included. */
const TURNS = { places: 16, maxStays: 128, turnMs: 1_000 }
const SERVERS_A_LOOK = 2 * TURNS.places
/** Progress is told once a second; a lease is renewed less often. */
const RENEW_LOOK_MS = 1_000
const RENEW_AFTER_MS = RENEW_MS / 2
/** The record of such a file names so many parts that the embedded database should not write it every second. */
const LARGE_RECORD_FILE_BYTES = 16 * 1024 ** 3
/** A finished copy is reported for as long as its lease may last; after that the next claim finds the object. */
const REPORT_FOR_MS = 20_000

interface Stay {
  slotId: string
  drain: Drain | null
  /** Its turn was over before it was connected. */
  isResting: boolean
  linger: Linger
  ended: Promise<void>
}

export function transferService(config: Config): ServiceSchema {
  return {
    name: 'transfer',
    dependencies: ['servers', 'files'],
    mixins: [
      tickerMixin({ name: 'work', everyMs: 2_000, action: 'transfer.takeWork', takesWork: true }),
      tickerMixin({ name: 'renew', everyMs: RENEW_LOOK_MS, action: 'transfer.renew' })
    ],

    actions: {
      /** Looks which servers have something to copy, and begins with those whose turn it is. */
      takeWork: {
        async handler(this: any, ctx: Context) {
          if (this.departure.hasBegun) return
          const priorities = await this.currentPriorities(ctx)
          if (this.turns.isOpen) {
            const look = { after: this.cursor, limit: SERVERS_A_LOOK, first: urgentOf(priorities) }
            const { urgent, others } = await ctx.call<Record<'urgent' | 'others', string[]>, object>('files.work', look)
            // Round and round, so that no server waits for ever behind those with smaller ids.
            this.cursor = others.length < SERVERS_A_LOOK ? '' : others.at(-1)
            for (const id of [...urgent, ...others]) this.wants(id)
          }
          await this.takeTurns(priorities)
        }
      },

      /** Renews files and connection slots of this worker, each kind in one call, and tells how far the copies are. */
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
            [...(drain?.copying.values() ?? [])].map(({ file, progress }) => {
              return { id: file._id, path: file.path, bytes: progress.bytes }
            })
          )
        }
      }
    },

    events: {
      'node.leaving'(this: any) {
        this.leave()
      },
      'file.pending'(this: any, ctx: Context<{ serverId?: string }>) {
        if (this.departure.hasBegun) return
        if (!ctx.params.serverId || this.prioritiesAt === 0) return this.workNow()
        // Begins without a look at all servers first, which may be under way and take its time.
        this.wants(ctx.params.serverId)
        this.takeTurns(this.priorities).catch(() => this.workNow())
      },
      /** Somebody found no free connection. A worker may have work for the one that is kept here; all others need it. */
      'server.wanted'(this: any, ctx: Context<{ serverId: string; kind: string }>) {
        const stay: Stay | undefined = this.stays.get(ctx.params.serverId)
        if (!stay?.linger.isWaiting) return
        if (ctx.params.kind !== 'transfer') return stay.linger.yield()
        this.wants(ctx.params.serverId)
        this.workNow()
      },
      'file.cancelled'(this: any, ctx: Context<{ id: string }>) {
        for (const { drain } of this.stays.values() as Iterable<Stay>) drain?.giveUp(ctx.params.id, 'cancelled')
      }
    },

    methods: {
      /** Claims and begins nothing more; what is on its way goes on for a while, then it is handed back as it is. */
      leave(): void {
        this.departure.begin()
        for (const { drain, linger } of this.stays.values() as Iterable<Stay>) {
          drain?.handBack()
          linger.yield()
        }
      },

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

      /** The server has something to copy: a stay there looks for it, or one is due. */
      wants(id: string): void {
        const stay: Stay | undefined = this.stays.get(id)
        if (stay && !stay.isResting && !stay.linger.isWaiting) stay.drain?.goOn()
        else this.turns.wants(id, Date.now())
      },

      async takeTurns(priorities: Priorities): Promise<void> {
        const { begin, rest, againMs } = this.turns.next(Date.now(), priorities)
        for (const id of rest) {
          const stay: Stay | undefined = this.stays.get(id)
          if (!stay) continue
          stay.isResting = true
          stay.drain?.rest()
        }
        clearTimeout(this.nextTurn)
        if (againMs !== null) this.nextTurn = setTimeout(() => this.workNow(), againMs)
        await Promise.all(begin.map((id: string) => this.begin(id)))
      },

      /** A new stay, or one that rested or was kept goes on. */
      async begin(id: string): Promise<void> {
        const known: Stay | undefined = this.stays.get(id)
        if (known) {
          known.isResting = false
          if (known.linger.isWaiting) known.linger.ring()
          else known.drain?.goOn()
          return
        }
        try {
          if (!(await this.arrive(id))) this.turns.left(id, Date.now())
        } catch (error) {
          this.turns.left(id, Date.now())
          throw error
        }
      },

      /** Answers whether there was a connection slot for the stay. */
      async arrive(id: string): Promise<boolean> {
        const reserved: Reservation | null = handoverOf(this.broker).reserve(id)
        try {
          const request = { id, kind: 'transfer', holder: this.worker }
          const { slotId, order, bytesPerSecond }: any = await this.broker.call('servers.takeSlot', request)
          if (!slotId) return false
          if (this.departure.hasBegun) {
            this.releaseSlot(id, slotId)
            return false
          }
          const stay: Stay = { slotId, drain: null, isResting: false, linger: new Linger(), ended: Promise.resolve() }
          this.stays.set(id, stay)
          const pace = this.bandwidth.of(id, bytesPerSecond ?? null)
          stay.ended = this.stay(id, stay, order, pace, reserved).finally(() => {
            this.stays.delete(id)
            this.turns.left(id, Date.now())
            this.releaseSlot(id, slotId)
          })
          return true
        } finally {
          reserved?.drop()
        }
      },

      releaseSlot(id: string, slotId: string): void {
        this.broker.call('servers.releaseSlot', { id, slotId }).catch(() => undefined)
      },

      /** One stay at one server, from the connection to the last file. */
      async stay(id: string, stay: Stay, order: WorkOrder, pace: Pace, reserved: Reservation | null): Promise<void> {
        try {
          const { target } = order
          const sftp = reserved?.take(target) ?? (await connectToServer(this.connector, target, this.departure.leaving))
          try {
            sftp.limitTo(pace)
            for (let next: WorkOrder | null = order; next; next = await this.nextOrder(id, stay, sftp, next)) {
              const copied = await this.drain(id, stay, sftp, next)
              // What came while the last file travelled is seen by a look of its own, not only by the next bell.
              if (copied > 0) setImmediate(() => this.workNow())
            }
          } finally {
            await sftp.close()
          }
        } catch (error) {
          await this.stayFailed(id, order, error)
        }
      },

      drain(id: string, stay: Stay, sftp: Sftp, order: WorkOrder): Promise<number> {
        stay.drain = new Drain(sftp, this.store, this.ports(id, order.policy.keyTemplate), {
          checksum: order.policy.checksum,
          concurrency: FILES_AT_ONCE,
          memory: this.memory.join(),
          signal: this.departure.cut
        })
        if (this.departure.hasBegun) stay.drain.handBack()
        if (stay.isResting) stay.drain.rest()
        return stay.drain.run()
      },

      /**
       * Keeps the connection for a while, without a place; answers the order as it is by then when the server has its turn
       * again, else null.
       */
      async nextOrder(id: string, stay: Stay, sftp: Sftp, last: WorkOrder): Promise<WorkOrder | null> {
        this.turns.left(id, Date.now())
        const waiting = [...this.stays.values()].filter(({ linger }: Stay) => linger.isWaiting)
        if (waiting.length >= MAX_LINGERING) waiting[0].linger.yield()
        if (!(await stay.linger.wait(LINGER_MS, sftp.closed)) || this.departure.hasBegun) return null
        const order: WorkOrder | null = await this.broker.call('servers.keepSlot', { id, slotId: stay.slotId })
        // Another address or other credentials need another connection.
        if (isDeepStrictEqual(order?.target, last.target)) return order
        setImmediate(() => this.workNow())
        return null
      },

      async stayFailed(id: string, order: WorkOrder, error: unknown): Promise<void> {
        if (this.departure.cut.aborted || errorType(error) === 'CANCELLED') return
        this.logger.warn(`${order.name}: ${(error as Error).message}`)
        if (!['server', 'stop'].includes(blameOf(error))) return
        const report = { id, error: recordedError(error, Date.now()) }
        await this.broker.call('servers.failed', report).catch(() => undefined)
      },

      ports(serverId: string, keyTemplate: string) {
        const call = <R>(action: string, params: object): Promise<R> =>
          persistently(REPORT_FOR_MS, () => this.broker.call(action, params), this.departure.silent)
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
        const now = Date.now()
        const due = copying.flatMap(([drain, one]) => {
          const everyMs = one.file.size > LARGE_RECORD_FILE_BYTES ? RENEW_AFTER_MS : RENEW_LOOK_MS
          const isDue = one.progress.isDue(now, everyMs) || now - one.renewedAt >= RENEW_AFTER_MS
          return isDue ? [{ drain, one, progress: one.progress.tell(now) }] : []
        })
        if (due.length === 0) return
        const holds = due.map(({ one: { file }, progress }) => ({ id: file._id, epoch: file.epoch, progress }))
        const { lost } = await ctx.call<{ lost: string[] }, object>('files.renew', { holds })
        for (const { drain, one, progress } of due) {
          const { _id: id, serverId, size } = one.file
          if (lost.includes(id)) {
            drain.giveUp(id, 'another worker holds the file')
            continue
          }
          one.renewedAt = now
          ctx.broadcast('file.progress', { id, serverId, size, ...progress })
        }
      },

      async renewSlots(ctx: Context): Promise<void> {
        const stays: [string, Stay][] = [...this.stays]
        if (stays.length === 0 || Date.now() - this.slotsRenewedAt < RENEW_AFTER_MS) return
        const slots = stays.map(([serverId, { slotId }]) => ({ serverId, slotId }))
        const { lost, wanted, shares } = await ctx.call<any, object>('servers.renewSlots', { slots })
        this.slotsRenewedAt = Date.now()
        for (const [id, { slotId, drain, linger }] of stays) {
          if (lost.includes(slotId) || wanted.includes(slotId)) {
            drain?.leave()
            linger.yield()
          }
          if (slotId in (shares ?? {})) this.bandwidth.of(id, shares[slotId])
        }
      }
    },

    created(this: any) {
      this.worker = `${this.broker.nodeID}/transfer`
      this.stays = new Map()
      this.turns = new Turns(TURNS)
      this.memory = new MemoryBudget(config.inFlightBytes)
      this.bandwidth = new Bandwidth(config.bandwidth)
      this.slotsRenewedAt = 0
      this.cursor = ''
      this.priorities = {}
      this.prioritiesAt = 0
      this.departure = new Departure()
    },

    async started(this: any) {
      this.departure.cut.addEventListener('abort', () => this.logger.warn('what had not ended in time is handed back'))
      const fault = nativeBindingFault()
      if (fault) this.logger.warn(fault)
      this.store = this.openStore()
      const resolveAddress = addressPolicy({ allow: config.allowNetworks, deny: config.denyNetworks })
      this.connector = {
        encryptionKey: config.encryptionKey,
        resolveAddress,
        open: this.openSftp,
        pinHostKey: (id, hostKey) => this.broker.call('servers.pinHostKey', { id, hostKey })
      } satisfies Connector
    },

    /** Waits for what is in flight. */
    async stopped(this: any) {
      this.leave()
      clearTimeout(this.nextTurn)
      await Promise.allSettled([...this.stays.values()].map(({ ended }: Stay) => ended))
      this.departure.end()
      await this.store?.close()
    }
  } as ServiceSchema
}
