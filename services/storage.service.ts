/** Owns the bucket: creates it, says whether it answers, signs addresses, sweeps what crashes left behind. Bytes never pass through here. */
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import type { DroppedUpload } from '../domain/file.ts'
import { openStore } from '../drivers/store/open.ts'
import type { ObjectStore } from '../drivers/store/store.ts'
import { tickerMixin } from '../mixins/ticker.mixin.ts'

const SWEEP_EVERY_MS = 10 * 60_000
/** An upload that nobody has finished for so long is stale, unless its file is still waiting or on its way. */
const STALE_MS = 24 * 3600_000

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

      /** Removes the objects and records of a removed server, page by page. */
      purge: {
        timeout: 0,
        params: { serverId: 'string' },
        async handler(this: any, ctx: Context<{ serverId: string }>) {
          let removed = 0
          for (;;) {
            const page = await ctx.call<any[], object>('files.purgePage', ctx.params)
            if (page.length === 0) return { removed }
            for (const file of page) {
              if (!file.reservedKey) continue
              for (const { uploadId } of await this.store.listUploads(file.reservedKey)) {
                await this.store.abortUpload(file.reservedKey, uploadId)
              }
              await this.store.remove(file.reservedKey)
            }
            await ctx.call('files.removeEach', { ids: page.map((file) => file._id) })
            removed += page.length
          }
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
