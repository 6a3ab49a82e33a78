/**
 * The drivers of the simulation keep what the real ones keep, so that they cannot drift apart from them. Its store does
 * not, on purpose: it takes texts that stand for ranges of large files, and no bytes that a contract could ask back.
 */
import { setImmediate as yielded } from 'node:timers/promises'
import type { Message } from '../../drivers/queue/queue.ts'
import { SimulatedDatabase } from '../simulation/database.ts'
import { SimulatedQueue } from '../simulation/queue.ts'
import { type FaultPlan, World } from '../simulation/world.ts'
import { collectionContract, type Thing, thingIndexes } from './collection.contract.ts'
import { queueContract } from './queue.contract.ts'

const calm: FaultPlan = {
  errors: { database: 0, store: 0, queue: 0, sftp: 0, network: 0 },
  ...{ slow: 0, crashes: 0, crash: 0, freezes: 0, freezesAtFinish: false, freeze: 0, writeMs: 0, storeDeath: 0 },
  until: 0
}

/** A world without faults whose time goes on until `stop`. */
function calmWorld() {
  const world = new World(1, () => calm)
  let isStopped = false
  const going = (async () => {
    while (!isStopped) {
      await world.timeline.run(world.now + 100)
      await yielded()
    }
  })()
  const stop = async () => {
    isStopped = true
    await going
  }
  return { world, life: world.newLife('node', 'node', 0), stop }
}

collectionContract('the simulated database', async () => {
  const { world, life, stop } = calmWorld()
  const database = new SimulatedDatabase(world).open(life)
  return {
    open: async (name) => ({
      collection: await database.collection<Thing>(database.adapter(name), thingIndexes),
      close: () => database.close()
    }),
    stop
  }
})

queueContract('the simulated queue', async () => {
  const { world, life, stop } = calmWorld()
  const simulated = new SimulatedQueue(world)
  return {
    queue: simulated.open(life),
    received: async () => simulated.delivered.map(({ message }: { message: Message }) => ({ ...message.body })),
    close: stop
  }
})
