/**
 * The scanner's third duty: sources of announced files are deleted or moved, where their server's policy says so. Takes
 * a connection slot like everything else; a batch is one connection, and what it does not get to is handed back.
 */
import type { Context, ServiceSchema } from 'moleculer'
import { type AfterUploadOutcome, type AfterUploadStep, releasesName } from '../domain/after-upload.ts'
import { IngestError, recordedError } from '../domain/errors.ts'
import type { Sftp } from '../drivers/sftp/sftp.ts'
import { clearSources } from '../workers/after-upload.ts'
import { persistently } from '../workers/persistently.ts'
import { resolveRoots } from '../workers/roots.ts'
import { tickerMixin } from './ticker.mixin.ts'

const BATCH = 200
const MAX_SERVERS = 8
/** Ten seconds less than the lease: nothing is changed on a server after this. */
const HOLD_MS = 25_000
const REPORT_FOR_MS = 20_000
/** Shorter than a wish for a slot lasts, so that one that waits is not forgotten. */
const BUSY_MS = 2_000
const AWAY_MS = 30_000

interface Batch {
  serverId: string
  steps: AfterUploadStep[]
}

export const afterUploadMixin: Partial<ServiceSchema> = {
  mixins: [
    tickerMixin({ name: 'clear', everyMs: 2_000, action: 'scanner.clearSources', takesWork: true }) as ServiceSchema
  ],

  actions: {
    /** Begins the steps that are due, one batch a server. */
    clearSources: {
      async handler(this: any, ctx: Context) {
        if (this.clearing.size >= MAX_SERVERS) return
        const batches = await ctx.call<Batch[], object>('files.claimAfterUploads', { limit: BATCH })
        for (const batch of batches) {
          const clearing = this.clearBatch(batch, Date.now() + HOLD_MS)
            .catch((error: Error) => this.logger.warn(`sources of ${batch.serverId} wait: ${error.message}`))
            .finally(() => this.clearing.delete(clearing))
          this.clearing.add(clearing)
        }
      }
    }
  },

  events: {
    'file.clearable'(this: any) {
      this.clearNow()
    }
  },

  methods: {
    async clearBatch({ serverId, steps }: Batch, until: number): Promise<void> {
      const open = new Map(steps.map((step) => [step.id, step]))
      const end = ({ id, epoch }: AfterUploadStep, outcome: AfterUploadOutcome) => ({ id, epoch, outcome })
      const call = <R>(action: string, params: object): Promise<R> =>
        persistently(REPORT_FOR_MS, () => this.broker.call(action, params))
      const report = async (ends: object[]) => {
        if (ends.length === 0) return
        await call('files.endAfterUploads', { ends })
      }
      const handBack = (outcome: AfterUploadOutcome) => report([...open.values()].map((step) => end(step, outcome)))

      const request = { id: serverId, kind: 'post', holder: this.holder }
      const { slotId, reason, order }: any = await this.broker.call('servers.takeSlot', request)
      if (!slotId) return handBack(refused(reason))
      const hold = {
        now: Date.now,
        check() {
          if (Date.now() > until) throw new IngestError('LEASE_LOST', 'the time of this batch is over')
        }
      }
      try {
        const signal = AbortSignal.any([this.stop.signal, AbortSignal.timeout(Math.max(1, until - Date.now()))])
        await this.connected(order, signal, async (sftp: Sftp) => {
          const roots = await resolveRoots(sftp, order.policy.roots)
          await clearSources(sftp, order.policy, roots, steps, hold, async (step, outcome) => {
            open.delete(step.id)
            const scanEpoch = releasesName(outcome) ? await call<number>('servers.scanEpoch', { id: serverId }) : 0
            await report([{ ...end(step, outcome), scanEpoch }])
          })
        })
        await handBack({ kind: 'deferred', error: null, waitMs: 0 })
      } catch (error) {
        await this.connectionFailed(order, error)
        await handBack({ kind: 'deferred', error: recordedError(error, Date.now()), waitMs: BUSY_MS })
      } finally {
        this.releaseSlot(serverId, slotId)
      }
    }
  },

  created(this: any) {
    this.clearing = new Set()
  },

  async stopped(this: any) {
    await Promise.allSettled([...this.clearing])
  }
}

function refused(reason: string): AfterUploadOutcome {
  if (reason === 'the server was removed' || reason === 'no such server') return { kind: 'kept' }
  return { kind: 'deferred', error: null, waitMs: reason.startsWith('all connections') ? BUSY_MS : AWAY_MS }
}
