/** Takes due servers, lists them page by page, reports what it finds; looks at settling files again in between. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import { blameOf, IngestError, type RecordedError, recordedError } from '../domain/errors.ts'
import { isPassing } from '../domain/patience.ts'
import type { Sighting } from '../domain/readiness.ts'
import type { ScanSummary } from '../domain/server.ts'
import { rulesOf } from '../domain/sighting.ts'
import { addressPolicy } from '../drivers/sftp/address.ts'
import { connectSftp } from '../drivers/sftp/connection.ts'
import type { ConnectOptions, Sftp, SftpTarget } from '../drivers/sftp/sftp.ts'
import { afterUploadMixin } from '../mixins/after-upload.mixin.ts'
import { inspectionMixin } from '../mixins/inspection.mixin.ts'
import { tickerMixin } from '../mixins/ticker.mixin.ts'
import { type Connector, connectToServer, type ServerTarget } from '../workers/connect.ts'
import { handoverOf } from '../workers/handover.ts'
import { KnownServers } from '../workers/known-files.ts'
import { lookAgain } from '../workers/look.ts'
import { persistently } from '../workers/persistently.ts'
import { type RunningScan, RunningScans } from '../workers/running-scans.ts'
import { type ScanResult, scanServer } from '../workers/scan.ts'
import { testServer } from '../workers/test-server.ts'
import type { ScanOrder, WorkOrder } from './servers.service.ts'

/** Called when everything was looked at over a connection: from then on others may read over it. */
type Offer = () => void

/** Somebody who asked for a scan and waits for its end. */
interface Waiter {
  serverId: string
  end(summary: ScanSummary): void
}

/** Most scans wait for the network most of the time; a connection takes about 0.2 MB. */
const MAX_SCANS = 128
/** Of those, at servers that failed: each may take the whole of a connection's time-out. */
const MAX_FAILING_SCANS = 64
const CLAIM_AT_ONCE = 32
const RENEW_SCANS_MS = 5_000
/** Eight million files. */
const KNOWN_FILES_BYTES = 64 * 1024 * 1024
const RECONCILE_MS = 6 * 3_600_000
const SLOT_RETRY_MS = 500
const REPORT_FOR_MS = 20_000

export function scannerService(config: Config): ServiceSchema {
  return {
    name: 'scanner',
    dependencies: ['servers', 'files'],
    mixins: [
      afterUploadMixin as ServiceSchema,
      inspectionMixin(),
      tickerMixin({ name: 'scan', everyMs: 1_000, action: 'scanner.takeDue', takesWork: true }),
      tickerMixin({ name: 'renew', everyMs: RENEW_SCANS_MS, action: 'scanner.renewScans' }),
      tickerMixin({ name: 'looks', everyMs: 1_000, action: 'scanner.takeLooks', takesWork: true })
    ],

    actions: {
      /** Claims as many due servers as there is room for and begins to scan them. */
      takeDue: {
        async handler(this: any, ctx: Context) {
          const { running } = this
          this.mayBeMore = false
          for (let limit = this.room(); limit > 0; limit = this.room()) {
            const failingLimit = Math.max(0, MAX_FAILING_SCANS - running.failing)
            const request = { limit, failingLimit, scanner: this.holder }
            const orders = await ctx.call<ScanOrder[], typeof request>('servers.claimDue', request)
            for (const order of orders) void this.begin(order).catch(() => undefined)
            // Fewer than asked for may be all that one message carries.
            if (orders.length < limit / 4) return
          }
          this.mayBeMore = true
        }
      },

      /** Keeps the leases of all scans under way in one call; gives up those that are not ours any more. */
      renewScans: {
        async handler(this: any, ctx: Context) {
          const { running } = this
          try {
            const scans = running.due(Date.now())
            if (scans.length === 0) return
            const request = { scans }
            const { lost } = await ctx.call<{ lost: string[] }, typeof request>('servers.renewScans', request)
            running.renewed(scans, lost, Date.now())
          } finally {
            running.stopStale(Date.now())
          }
        }
      },

      /** Looks again at settling files whose time has come. */
      takeLooks: {
        async handler(this: any, ctx: Context) {
          const due = await ctx.call<{ serverId: string; paths: string[] }[]>('files.claimLooks')
          for (const { serverId, paths } of due) {
            const looking = this.look(serverId, paths)
              .catch((error: Error) => this.logger.debug(`no look at ${serverId}: ${error.message}`))
              .finally(() => this.looking.delete(looking))
            this.looking.add(looking)
          }
        }
      },

      /**
       * Scans a server now, or joins the scan that is running. `wait`: answers when it ends, with its summary; a scan
       * that failed is an answer too, with its `error` and nothing listed.
       */
      scan: {
        timeout: 0,
        params: { id: 'string', wait: 'boolean|optional' },
        async handler(this: any, ctx: Context<{ id: string; wait?: boolean }>) {
          const { id, wait } = ctx.params
          const waiter: Waiter = { serverId: id, end: () => {} }
          const ended = new Promise<ScanSummary>((resolve) => {
            waiter.end = resolve
          })
          // Before the claim: a scan that is running may end while it is asked for.
          this.waiting.add(waiter)
          try {
            const request = { id, scanner: this.holder }
            const order = await ctx.call<ScanOrder | null, typeof request>('servers.claimScan', request)
            if (order) void this.begin(order).catch(() => undefined)
            return wait ? await ended : { started: order !== null }
          } finally {
            this.waiting.delete(waiter)
          }
        }
      },

      /** Connects and lists the roots. Never fails: `{ok, hostKey, latencyMs, roots, error}`. */
      test: {
        timeout: 0,
        params: { target: 'object', roots: { type: 'array', items: 'string' }, saved: 'boolean' },
        async handler(this: any, ctx: Context<{ target: ServerTarget; roots: string[]; saved: boolean }>) {
          const { target, roots, saved } = ctx.params
          const test = () =>
            testServer({ ...this.connector, ...(saved ? {} : { pinHostKey: keepSeen }) }, target, roots)
          if (!saved) return test()
          const slotId = await this.waitForSlot(target.id, 'test', AbortSignal.timeout(15_000)).catch(() => null)
          if (!slotId) {
            const error = { type: 'SFTP_TOO_MANY_SESSIONS', message: 'all connections of the server are in use' }
            return { ok: false, hostKey: null, latencyMs: null, roots: [], error }
          }
          return test().finally(() => this.releaseSlot(target.id, slotId))
        }
      }
    },

    events: {
      'server.due'(this: any) {
        this.scanNow()
      },
      'server.scanned'(this: any, ctx: Context<{ serverId: string; summary?: ScanSummary; error?: RecordedError }>) {
        const { serverId, summary, error } = ctx.params
        const nothing = { listed: 0, new: 0, settling: 0, pending: 0, skipped: 0, quarantined: 0, durationMs: 0 }
        for (const waiter of this.waiting as Set<Waiter>) {
          if (waiter.serverId === serverId) waiter.end((summary ?? { ...nothing, error }) as ScanSummary)
        }
      }
    },

    methods: {
      openSftp(target: SftpTarget, options: ConnectOptions): Promise<Sftp> {
        return connectSftp(target, options)
      },

      room(): number {
        return Math.min(CLAIM_AT_ONCE, MAX_SCANS - this.running.size)
      },

      begin(order: ScanOrder): Promise<void> {
        const scan: RunningScan<ScanOrder> = this.running.begin(order, Date.now())
        const ended: Promise<void> = this.scanOne(scan).finally(() => {
          this.scans.delete(ended)
          this.running.end(scan)
          if (this.mayBeMore && this.running.size <= MAX_SCANS - CLAIM_AT_ONCE) this.scanNow()
        })
        this.scans.add(ended)
        return ended
      },

      /** One scan from its claim to its report. */
      async scanOne(scan: RunningScan<ScanOrder>): Promise<void> {
        const { order } = scan
        const { id } = order.target
        const signal = AbortSignal.any([scan.abort.signal, this.stop.signal])
        try {
          scan.slotId ??= await this.waitForSlot(id, 'scan', signal)
          const { summary, problem, quarantined } = await this.connected(order, signal, (sftp: Sftp, offer: Offer) =>
            this.list(sftp, order, signal, offer)
          )
          for (const { folder, reason } of quarantined) {
            this.logger.warn(`${order.name}: a name in ${JSON.stringify(folder)} is quarantined: ${reason}`)
          }
          const done = { ...holdOf(scan), summary, problem }
          await persistently(REPORT_FOR_MS, () => this.broker.call('servers.scanDone', done))
        } catch (error) {
          await this.scanFailed(scan, error, signal)
        }
      },

      async scanFailed(scan: RunningScan<ScanOrder>, error: unknown, signal: AbortSignal): Promise<void> {
        if (this.stop.signal.aborted) return this.giveBack(scan)
        const { order, slotId } = scan
        this.known.pass(scannedBy(order))
        // A scan that was lost says nothing about the server.
        if (signal.aborted) return slotId ? this.releaseSlot(order.target.id, slotId) : undefined
        const isOurs = isPassing(error)
        const how = isOurs ? 'was given up, by no fault of the server' : 'failed'
        this.logger.warn(`${order.name}: the scan ${how}: ${(error as Error).message}`)
        const report = { ...holdOf(scan), error: recordedError(error, Date.now()) }
        const action = isOurs ? 'servers.scanGivenUp' : 'servers.failed'
        await persistently(REPORT_FOR_MS, () => this.broker.call(action, report)).catch((failure) =>
          this.logger.warn(`${order.name}: the failed scan could not be reported: ${failure.message}`)
        )
      },

      /** Where it cannot be given back its lease runs out. */
      async giveBack(scan: RunningScan<ScanOrder>): Promise<void> {
        await this.broker.call('servers.giveScansBack', { scans: [holdOf(scan)] }).catch(() => undefined)
      },

      async list(sftp: Sftp, order: ScanOrder, signal: AbortSignal, offer: Offer): Promise<ScanResult> {
        const { broker } = this
        const serverId = order.target.id
        const scanned = scannedBy(order)
        const known = this.known.begin(scanned, Date.now())
        let isComplete = false
        try {
          const result = await scanServer(sftp, order.policy, {
            signal,
            known,
            now: Date.now,
            register: (sightings: Sighting[]) => this.register(order, sightings),
            listed: offer,
            unstored: (after) => broker.call('files.unstored', { serverId, scanEpoch: order.scanEpoch, after }),
            vanished: (ids) => broker.call('files.vanished', { ids })
          })
          isComplete = result.summary.complete
          return result
        } finally {
          this.known.end(scanned, known.result(isComplete), Date.now())
        }
      },

      register(order: WorkOrder, sightings: Sighting[], onChange = order.policy.onChange) {
        const rules = { ...rulesOf({ ...order, id: order.target.id }), onChange }
        return persistently(REPORT_FOR_MS, () => this.broker.call('files.register', { rules, sightings }))
      },

      async look(serverId: string, paths: string[]): Promise<void> {
        const taken: any = await this.broker.call('servers.takeSlot', {
          id: serverId,
          kind: 'look',
          holder: this.holder
        })
        if (!taken.slotId) return
        const { order } = taken
        try {
          await this.connected(order, this.stop.signal, async (sftp: Sftp, offer: Offer) => {
            const { seen, gone } = await lookAgain(sftp, order.policy, paths)
            offer()
            // Of a file that was stored meanwhile the next scan decides: it may remember what it was.
            if (seen.length > 0) await this.register(order, seen, 'ignore')
            if (gone.length > 0) await this.broker.call('files.vanishedPaths', { serverId, paths: gone })
          })
        } catch (error) {
          await this.connectionFailed(order, error)
          throw error
        } finally {
          this.releaseSlot(serverId, taken.slotId)
        }
      },

      /** Refused credentials stop the server, whoever was refused: no other connection may try them again and again. */
      async connectionFailed(order: WorkOrder, error: unknown): Promise<void> {
        if (this.stop.signal.aborted || !['server', 'stop'].includes(blameOf(error))) return
        const report = { id: order.target.id, error: recordedError(error, Date.now()) }
        await this.broker.call('servers.failed', report).catch(() => undefined)
      },

      /** What is found over the connection may be copied over it, once it is offered. */
      async connected(
        { target }: WorkOrder,
        signal: AbortSignal,
        use: (sftp: Sftp, offer: Offer) => Promise<any>
      ): Promise<any> {
        const sftp = await connectToServer(this.connector, target, signal)
        let takeBack = async () => {}
        const offer = () => {
          takeBack = handoverOf(this.broker).offer(target, sftp)
        }
        try {
          return await use(sftp, offer)
        } finally {
          await takeBack()
          await sftp.close()
        }
      },

      /** A slot for a scan or test; holders yield to it. Waits until there is one or `signal` ends it. */
      async waitForSlot(id: string, kind: 'scan' | 'test', signal: AbortSignal): Promise<string> {
        // A connection that was only kept is given back within moments.
        for (let waitMs = 50; ; waitMs = Math.min(SLOT_RETRY_MS, waitMs * 2)) {
          signal.throwIfAborted()
          const request = { id, kind, holder: this.holder }
          const { slotId, reason } = await persistently<any>(REPORT_FOR_MS, () =>
            this.broker.call('servers.takeSlot', request)
          )
          if (slotId) return slotId
          if (reason === 'the server was removed') throw new IngestError('NOT_FOUND', reason)
          await delay(waitMs, undefined, { signal })
        }
      },

      releaseSlot(id: string, slotId: string): void {
        this.broker.call('servers.releaseSlot', { id, slotId }).catch(() => undefined)
      }
    },

    created(this: any) {
      this.holder = `${this.broker.nodeID}/scanner`
      this.scans = new Set()
      this.running = new RunningScans<ScanOrder>()
      this.known = new KnownServers({ maxBytes: KNOWN_FILES_BYTES, reconcileMs: RECONCILE_MS })
      this.mayBeMore = false
      this.looking = new Set()
      this.waiting = new Set<Waiter>()
      this.stop = new AbortController()
    },

    started(this: any) {
      const resolveAddress = addressPolicy({ allow: config.allowNetworks, deny: config.denyNetworks })
      this.connector = {
        encryptionKey: config.encryptionKey,
        resolveAddress,
        open: this.openSftp,
        pinHostKey: (id, hostKey) => this.broker.call('servers.pinHostKey', { id, hostKey })
      } satisfies Connector
    },

    async stopped(this: any) {
      this.stop.abort(new IngestError('CANCELLED', 'the scanner is stopping'))
      await Promise.allSettled([...this.scans, ...this.looking])
    }
  } as ServiceSchema
}

/** As what is remembered of it is named. */
function scannedBy({ target, generation, scanEpoch }: ScanOrder) {
  return { serverId: target.id, generation, scanEpoch }
}

/** As a report names it. */
function holdOf({ order, slotId }: RunningScan<ScanOrder>) {
  return { id: order.target.id, scanEpoch: order.scanEpoch, ...(slotId ? { slotId } : {}) }
}

/** A server that is not saved has no place to pin a key in. */
async function keepSeen(_id: string, fingerprint: string): Promise<string> {
  return fingerprint
}
