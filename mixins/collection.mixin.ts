import type { ServiceSchema } from 'moleculer'
import DbService from 'moleculer-db'
import type { Collection, Document, Index } from '../drivers/db/collection.ts'
import type { Database } from '../drivers/db/database.ts'

export interface CollectionMixinOptions {
  name: string
  indexes: Index[]
  /** What an operator has to know when records were lost by a crash of the embedded database. */
  ifLost?: string
}

/** What a service has by `collectionMixin`, beside moleculer-db's `_find`, `_get`, `_count` and `_list`. */
export interface WithCollection<T extends Document> {
  database: Database
  collection: Collection<T>
}

/**
 * moleculer-db for reading, `this.collection` for writing. None of moleculer-db's actions is published, since any
 * of them would get around the state machine; its `started` is not used either, since it tries for ever and a
 * folder that is in use should end the start. The service has a method `openDatabase`.
 */
export function collectionMixin({ name, indexes, ifLost = '' }: CollectionMixinOptions): Partial<ServiceSchema> {
  const { actions: _actions, started: _started, stopped: _stopped, ...reading } = DbService as unknown as ServiceSchema
  return {
    mixins: [reading],
    methods: {
      /** Writes go through the collection: there is no cache to clear and nothing to broadcast. */
      async clearCache() {}
    },
    async started() {
      this.database = await this.openDatabase()
      this.adapter = this.database.adapter(name)
      this.adapter.init(this.broker, this)
      await this.adapter.connect()
      for (const sentence of this.database.damageOf?.(name) ?? []) this.logger.warn(`${sentence}. ${ifLost}`)
      this.collection = await this.database.collection(this.adapter, indexes)
    },
    async stopped() {
      await this.database?.close()
    }
  }
}
