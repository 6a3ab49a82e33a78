/** Announces what is stored: claims due announcements, publishes each, and marks it after the broker's confirm. */
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import { announcementOf } from '../domain/announcement.ts'
import { recordedError } from '../domain/errors.ts'
import type { FileRecord } from '../domain/file-record.ts'
import { failpoint } from '../drivers/failpoint.ts'
import { openQueue } from '../drivers/queue/open.ts'
import type { Queue } from '../drivers/queue/queue.ts'
import { tickerMixin } from '../mixins/ticker.mixin.ts'
import { persistently } from '../workers/persistently.ts'

const BATCH = 100
const GATHER_MS = 20
const REPORT_FOR_MS = 20_000

export function notifierService(config: Config): ServiceSchema {
  return {
    name: 'notifier',
    dependencies: ['files'],
    mixins: [tickerMixin({ name: 'announce', everyMs: 2_000, action: 'notifier.announce' })],

    actions: {
      /** Announces everything that is due. Claims nothing while the broker cannot be reached. */
      announce: {
        timeout: 0,
        async handler(this: any, ctx: Context) {
          this.isAnnouncing = true
          try {
            for (let more = true; more && !this.stopping; ) {
              await this.queue.ping()
              const due = await ctx.call<FileRecord[], object>('files.claimAnnouncements', { limit: BATCH })
              this.publishing = this.publishAll(due)
              await this.publishing
              more = due.length === BATCH
            }
          } finally {
            this.isAnnouncing = false
          }
        }
      },

      /** Rejects with QUEUE_UNAVAILABLE when messages cannot be sent now. */
      ping: {
        async handler(this: any) {
          await this.queue.ping()
          return true
        }
      }
    },

    events: {
      'file.uploaded'(this: any) {
        // The first goes at once; while others are on their way, some more are waited for.
        if (!this.isAnnouncing) this.announceNow()
        else this.gathering ??= setTimeout(() => this.announceGathered(), GATHER_MS)
      }
    },

    methods: {
      announceGathered(): void {
        this.gathering = null
        this.announceNow()
      },

      openQueue(): Queue {
        return openQueue(config, this.logger)
      },

      async publishAll(files: FileRecord[]): Promise<void> {
        const sent: { id: string; epoch: number }[] = []
        const publish = async (file: FileRecord) => {
          const hold = { id: file._id, epoch: file.announcement!.epoch }
          try {
            await this.queue.publish(announcementOf(file))
            sent.push(hold)
          } catch (error) {
            const report = { ...hold, error: recordedError(error, Date.now()) }
            await persistently(REPORT_FOR_MS, () => this.broker.call('files.announcementFailed', report))
          }
        }
        await Promise.allSettled(files.map(publish))
        if (sent.length > 0) await failpoint('after-confirm')
        if (sent.length > 0)
          await persistently(REPORT_FOR_MS, () => this.broker.call('files.announced', { holds: sent }))
      }
    },

    created(this: any) {
      this.stopping = false
      this.isAnnouncing = false
      this.gathering = null
      this.publishing = null
    },

    started(this: any) {
      this.queue = this.openQueue()
      // The broker may be away at the start: the queue goes on trying by itself.
      this.queue.open().catch((error: Error) => this.logger.warn(`announcements wait: ${error.message}`))
    },

    /** What is on its way is confirmed and recorded first: closed in between, it would be announced again. */
    async stopped(this: any) {
      this.stopping = true
      clearTimeout(this.gathering)
      await this.publishing?.catch(() => undefined)
      await this.queue?.close()
    }
  } as ServiceSchema
}
