/** Takes due servers, lists them page by page, reports what it finds; looks at settling files again in between. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import { IngestError, type RecordedError, recordedError } from '../domain/errors.ts'
import type { Sighting } from '../domain/file.ts'
import type { ScanSummary } from '../domain/server.ts'
import { addressPolicy } from '../drivers/sftp/address.ts'
import { connectSftp } from '../drivers/sftp/connection.ts'
import type { ConnectOptions, Sftp, SftpTarget } from '../drivers/sftp/sftp.ts'
import { tickerMixin } from '../mixins/ticker.mixin.ts'
import { type Connector, connectToServer, type ServerTarget } from '../workers/connect.ts'
import { lookAgain } from '../workers/look.ts'
import { persistently } from '../workers/persistently.ts'
import { type ScanResult, scanServer } from '../workers/scan.ts'
import { testServer } from '../workers/test-server.ts'
import type { WorkOrder } from './servers.service.ts'

/** Somebody who asked for a scan and waits for its end. */
interface Waiter {
  serverId: string
  end(summary: ScanSummary): void
}

const MAX_SCANS = 16
/** Of those, at servers that failed: each may take the whole of a connection's time-out. */
const MAX_FAILING_SCANS = 8
const RENEW_SCAN_MS = 10_000
const SLOT_RETRY_MS = 500
const REPORT_FOR_MS = 20_000

export function scannerService(config: Config): ServiceSchema {
  return {
    name: 'scanner',
    dependencies: ['servers', 'files'],
    mixins: [
      tickerMixin({ name: 'scan', everyMs: 1_000, action: 'scanner.takeDue' }),
      tickerMixin({ name: 'looks', everyMs: 1_000, action: 'scanner.takeLooks' })
    ],

    actions: {
      /** Claims as many due servers as there is room for and begins to scan them. */
      takeDue: {
        async handler(this: any, ctx: Context) {
          const limit = MAX_SCANS - this.scans.size
          if (limit <= 0) return
          const failingLimit = Math.max(0, MAX_FAILING_SCANS - this.failing.size)
          const orders = await ctx.call<WorkOrder[], object>('servers.claimDue', { limit, failingLimit })
          for (const order of orders) void this.begin(order).catch(() => undefined)
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
            const order = await ctx.call<WorkOrder | null, { id: string }>('servers.claimScan', { id })
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

      begin(order: WorkOrder): Promise<void> {
        const running: Promise<void> = this.scanOne(order).finally(() => {
          this.scans.delete(running)
          this.failing.delete(running)
        })
        this.scans.add(running)
        if (order.failures > 0) this.failing.add(running)
        return running
      },

      /** One scan from its claim to its report. */
      async scanOne(order: WorkOrder): Promise<void> {
        const { id } = order.target
        const lost = new AbortController()
        const signal = AbortSignal.any([lost.signal, this.stop.signal])
        const beat = setInterval(() => {
          const renewed = this.broker.call('servers.renewScan', { id, scanEpoch: order.scanEpoch })
          renewed.catch((error: IngestError) => error.type === 'LEASE_LOST' && lost.abort(error))
        }, RENEW_SCAN_MS)
        let slotId: string | null = null
        try {
          slotId = await this.waitForSlot(id, 'scan', signal)
          const { summary, problem, quarantined } = await this.connected(order, signal, (sftp: Sftp) =>
            this.list(sftp, order, signal)
          )
          for (const { folder, reason } of quarantined) {
            this.logger.warn(`${order.name}: a name in ${JSON.stringify(folder)} is quarantined: ${reason}`)
          }
          const done = { id, scanEpoch: order.scanEpoch, summary, problem }
          await persistently(REPORT_FOR_MS, () => this.broker.call('servers.scanDone', done))
        } catch (error) {
          await this.scanFailed(order, error, signal)
        } finally {
          clearInterval(beat)
          if (slotId) this.releaseSlot(id, slotId)
        }
      },

      async scanFailed(order: WorkOrder, error: unknown, signal: AbortSignal): Promise<void> {
        // A scan that was broken off by us says nothing about the server; its lease runs out.
        if (signal.aborted) return
        this.logger.warn(`${order.name}: the scan failed: ${(error as Error).message}`)
        const report = { id: order.target.id, error: recordedError(error, Date.now()), scanEpoch: order.scanEpoch }
        await persistently(REPORT_FOR_MS, () => this.broker.call('servers.failed', report)).catch((failure) =>
          this.logger.warn(`${order.name}: the failed scan could not be reported: ${failure.message}`)
        )
      },

      list(sftp: Sftp, order: WorkOrder, signal: AbortSignal): Promise<ScanResult> {
        const { broker } = this
        const serverId = order.target.id
        return scanServer(sftp, order.policy, {
          signal,
          now: Date.now,
          register: (sightings: Sighting[]) => this.register(order, sightings),
          unstored: (after) => broker.call('files.unstored', { serverId, after }),
          vanished: (ids) => broker.call('files.vanished', { ids })
        })
      },

      register(order: WorkOrder, sightings: Sighting[]) {
        const { policy, scanEpoch, name: serverName } = order
        const rules = {
          serverId: order.target.id,
          serverName,
          settle: policy.settle,
          minAge: policy.minAge,
          onChange: policy.onChange,
          scanEpoch
        }
        return persistently(REPORT_FOR_MS, () => this.broker.call('files.register', { rules, sightings }))
      },

      async look(serverId: string, paths: string[]): Promise<void> {
        const taken: any = await this.broker.call('servers.takeSlot', {
          id: serverId,
          kind: 'scan',
          holder: this.holder
        })
        if (!taken.slotId) return
        try {
          const { order } = taken
          await this.connected(order, this.stop.signal, async (sftp: Sftp) => {
            const { seen, gone } = await lookAgain(sftp, order.policy, paths)
            if (seen.length > 0) await this.register(order, seen)
            if (gone.length > 0) await this.broker.call('files.vanishedPaths', { serverId, paths: gone })
          })
        } finally {
          this.releaseSlot(serverId, taken.slotId)
        }
      },

      async connected(order: WorkOrder, signal: AbortSignal, use: (sftp: Sftp) => Promise<any>) {
        const sftp = await connectToServer(this.connector, order.target, signal)
        try {
          return await use(sftp)
        } finally {
          await sftp.close()
        }
      },

      /** A slot for a scan or test; holders yield to it. Waits until there is one or `signal` ends it. */
      async waitForSlot(id: string, kind: 'scan' | 'test', signal: AbortSignal): Promise<string> {
        for (;;) {
          signal.throwIfAborted()
          const request = { id, kind, holder: this.holder }
          const { slotId, reason } = await persistently<any>(REPORT_FOR_MS, () =>
            this.broker.call('servers.takeSlot', request)
          )
          if (slotId) return slotId
          if (reason === 'the server was removed') throw new IngestError('NOT_FOUND', reason)
          await delay(SLOT_RETRY_MS, undefined, { signal })
        }
      },

      releaseSlot(id: string, slotId: string): void {
        this.broker.call('servers.releaseSlot', { id, slotId }).catch(() => undefined)
      }
    },

    created(this: any) {
      this.holder = `${this.broker.nodeID}/scanner`
      this.scans = new Set()
      this.failing = new Set()
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

/** A server that is not saved has no place to pin a key in. */
async function keepSeen(_id: string, fingerprint: string): Promise<string> {
  return fingerprint
}
