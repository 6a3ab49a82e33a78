import { collectionContract, type Thing, thingIndexes } from '../contract/collection.contract.ts'
import { memoryCollection } from '../support/memory-collection.ts'

collectionContract('the memory collection of the unit tests', async () => ({
  open: async () => ({ collection: memoryCollection<Thing>(thingIndexes), close: async () => {} }),
  stop: async () => {}
}))
