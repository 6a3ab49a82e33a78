/** Owns the bucket: creates it, says whether it answers, signs addresses, sweeps what crashes left behind. Bytes never pass through here. */
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import type { DroppedUpload } from '../domain/file.ts'
import { failpoint } from '../drivers/failpoint.ts'
import { openStore } from '../drivers/store/open.ts'
import type { ObjectStore } from '../drivers/store/store.ts'
import { tickerMixin } from '../mixins/ticker.mixin.ts'

const SWEEP_EVERY_MS = 10 * 60_000
/** How long a purge goes on before it answers. */
const PURGE_MS = 10_000
/** An upload that nobody has finished for so long is stale, unless its file is still waiting or on its way. */
const STALE_MS = 24 * 3600_000

/** Of the record of a file whose server is purged. */
interface Purged {
  id: string
  key: string | null
  isStored: boolean
}

export function storageService(config: Config): ServiceSchema {
  return {
    name: 'storage',
    mixins: [
      tickerMixin({ name: 'ready', everyMs: 5_000, action: 'storage.prepare' }),
      tickerMixin({ name: 'sweep', everyMs: SWEEP_EVERY_MS, action: 'storage.sweep' })
    ],

    actions: {
      /** Creates the bucket once; the service starts without a store and goes on by itself when it is there. */
      prepare: {
        async handler(this: any) {
          if (this.isReady) return
          await this.store.ensureReady()
          this.isReady = true
        }
      },

      /** Rejects with STORE_* when the store cannot be used now. */
      ping: {
        async handler(this: any) {
          await this.store.ensureReady()
          return true
        }
      },

      /** What the store has under a key, or null. */
      stat: {
        params: { key: 'string' },
        handler(this: any, ctx: Context<{ key: string }>) {
          return this.store.head(ctx.params.key)
        }
      },

      /** An address to GET the object from for a while; null where the store has no such thing. */
      presign: {
        params: { key: 'string', disposition: 'string', expiresSeconds: { type: 'number', default: 300 } },
        handler(this: any, ctx: Context<{ key: string; disposition: string; expiresSeconds: number }>) {
          const { key, ...options } = ctx.params
          return this.store.presignedUrl(key, options)
        }
      },

      /** Aborts multipart uploads that nobody will finish. Answers how many. */
      sweep: {
        timeout: 0,
        async handler(this: any, ctx: Context) {
          await this.store.ensureReady()
          const stale = await this.store.listStaleUploads(Date.now() - STALE_MS)
          if (stale.length === 0) return 0
          const keys = stale.map(({ key }: { key: string }) => key)
          const used = new Set(await ctx.call<string[], object>('files.keysInUse', { keys }))
          let swept = 0
          for (const { key, uploadId } of stale) {
            if (used.has(key)) continue
            await this.store.abortUpload(key, uploadId)
            swept++
          }
          if (swept > 0) this.logger.info(`${swept} stale uploads were aborted`)
          return swept
        }
      },

      /**
       * Removes the objects and records of a removed server, page by page; without `unstored` the records stay of files that
       * a worker may have been copying. Answers whether it came to the end: it stops after a while, to be called again.
       */
      purge: {
        params: { serverId: 'string', unstored: 'boolean' },
        async handler(this: any, ctx: Context<{ serverId: string; unstored: boolean }>) {
          const { serverId, unstored } = ctx.params
          const until = Date.now() + PURGE_MS
          for (let after = ''; Date.now() < until; ) {
            const page = await ctx.call<Purged[], object>('files.purgePage', { serverId, after })
            if (page.length === 0) return true
            after = page.at(-1)!.id
            for (const { key } of page) if (key !== null) await this.clearKey(key)
            const done = page.filter(({ key, isStored }) => unstored || key === null || isStored)
            if (done.length > 0) await ctx.call('files.removeEach', { ids: done.map(({ id }) => id) })
            await failpoint('between-purge-pages')
          }
          return false
        }
      }
    },

    events: {
      /** Each by its id, which no worker goes on with: another upload of the same key is left alone. */
      async 'upload.dropped'(this: any, ctx: Context<{ uploads: DroppedUpload[] }>) {
        for (const { key, uploadId } of ctx.params.uploads) {
          await this.store.abortUpload(key, uploadId).catch((error: Error) => {
            this.logger.warn(`the upload of ${key} is left for the sweep: ${error.message}`)
          })
        }
      }
    },

    methods: {
      openStore(): ObjectStore {
        return openStore(config)
      },

      async clearKey(key: string): Promise<void> {
        for (const { uploadId } of await this.store.listUploads(key)) await this.store.abortUpload(key, uploadId)
        await this.store.remove(key)
      }
    },

    created(this: any) {
      this.isReady = false
    },

    started(this: any) {
      this.store = this.openStore()
    },

    async stopped(this: any) {
      await this.store?.close()
    }
  } as ServiceSchema
}
