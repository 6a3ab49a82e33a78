/** The timeline of the `files` service: counts what its collection writes. Stands before `collectionMixin`. */
import { randomUUID } from 'node:crypto'
import type { Context, ServiceSchema } from 'moleculer'
import { RESOLUTIONS, type Resolution, windowOf } from '../domain/timeline.ts'
import { Timeline, timelineIndexes, watched } from '../drivers/db/timeline.ts'
import { tickerMixin } from './ticker.mixin.ts'

const FLUSH_EVERY_MS = 10_000

interface Asked {
  resolution: Resolution
  since?: number
  until?: number
  serverId?: string
}

export function timelineMixin(): Partial<ServiceSchema> {
  return {
    mixins: [tickerMixin({ name: 'timeline', everyMs: FLUSH_EVERY_MS, action: 'files.foldTimeline' })],

    actions: {
      /** Counts and bytes by bucket: `{resolution, since, until, items: [{at, tallies}]}`, times in ms. */
      timeline: {
        params: {
          resolution: { type: 'enum', values: [...RESOLUTIONS], default: 'minute' },
          since: 'number|optional',
          until: 'number|optional',
          serverId: 'string|optional'
        },
        async handler(this: any, ctx: Context<Asked>) {
          const { resolution, since, until, serverId } = ctx.params
          await this.timeline.flush()
          const window = windowOf(resolution, since, until, Date.now())
          return { ...window, items: await this.timeline.read(window, serverId) }
        }
      },

      /** Writes what was counted since the last time, and drops what is kept no longer. */
      foldTimeline: {
        async handler(this: any) {
          await this.timeline.flush()
          await this.timeline.prune(Date.now())
        }
      }
    },

    async started(this: any) {
      const adapter = this.database.adapter('timeline')
      adapter.init(this.broker, this)
      await adapter.connect()
      this.timeline = new Timeline(await this.database.collection(adapter, timelineIndexes), randomUUID())
      this.collection = watched(this.collection, (from: any, to: any) => this.timeline.note(from, to))
    },

    async stopped(this: any) {
      await this.timeline?.flush().catch((error: Error) => this.logger.warn(`the timeline: ${error.message}`))
    }
  }
}
