import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, describe, expect, test } from '@jest/globals'
import { starvedMs } from '../support/cpu-time.ts'
import { type TransferWorld, type TransferWorldOptions, transferWorld } from '../support/transfer-world.ts'
import { PATIENCE_MS, waitFor } from '../support/wait.ts'

let world: TransferWorld | null = null
afterEach(async () => {
  await world?.stop()
  world = null
})

/** A hundred thousand files on one server, and thirty more servers that have work for longer than the test takes. */
async function busyWorld(options: TransferWorldOptions): Promise<TransferWorld> {
  world = await transferWorld(options)
  world.pending.set('a-huge', 100_000)
  for (let i = 10; i < 40; i++) world.pending.set(`busy-${i}`, 5_000)
  world.broker.emit('file.pending', { serverId: 'a-huge' })
  const { stored } = world
  await waitFor(() => stored.size === 31, { what: 'each of 31 servers to have stored a file' })
  return world
}

/** Milliseconds from the file's being there to its being stored, without those that the machine had no time for it. */
async function latencyOf({ pending, broker, storedOf }: TransferWorld, serverId: string, rings = true) {
  const start = performance.now()
  const starved = starvedMs()
  pending.set(serverId, 1)
  const done = storedOf(serverId)
  if (rings) broker.emit('file.pending', { serverId })
  await Promise.race([done, delay(PATIENCE_MS, undefined, { ref: false })])
  return performance.now() - start - starved()
}

describe('transfer', () => {
  test('one file of a quiet server is stored within 2 s, though 31 servers have more than can be copied', async () => {
    const busy = await busyWorld({ fileMs: 100 })
    for (const id of ['single', 'a-before-all', 'z-after-all', 'single']) {
      expect(await latencyOf(busy, id)).toBeLessThan(2_000)
    }
    for (const [id, files] of busy.pending) if (/huge|busy/.test(id)) expect(files).toBeGreaterThan(0)
  })

  test('a lost bell costs one look, not the file', async () => {
    const busy = await busyWorld({ fileMs: 100 })
    expect(await latencyOf(busy, 'unheard', false)).toBeLessThan(5_000)
  })

  test('servers that take long to connect do not hold up the others, and get their files too', async () => {
    world = await transferWorld({ fileMs: 20, connectMs: (id) => (id.startsWith('slow') ? 3_000 : 10) })
    const { pending, broker, stored } = world
    for (let i = 0; i < 20; i++) {
      pending.set(`slow-${i}`, 5)
      broker.emit('file.pending', { serverId: `slow-${i}` })
    }
    expect(await latencyOf(world, 'quick')).toBeLessThan(2_000)
    await waitFor(() => [...stored.values()].reduce((sum, files) => sum + files, 0) === 101, {
      what: 'all files of the slow servers'
    })
  })

  test('a file that comes while a long one is under way on the same connection does not wait for it', async () => {
    world = await transferWorld({ fileMs: 8_000 })
    world.pending.set('s', 1)
    const { broker, stored, connected } = world
    broker.emit('file.pending', { serverId: 's' })
    await waitFor(() => connected.has('s') && world!.pending.get('s') === 0, { what: 'the first' })
    await delay(500)
    world.pending.set('s', 1)
    broker.emit('file.pending', { serverId: 's' })
    await waitFor(() => world!.pending.get('s') === 0, { what: 'the second to be claimed' })
    expect(stored.get('s')).toBeUndefined()
  })

  test('files that are copied within a second are neither renewed nor told of', async () => {
    const busy = await busyWorld({ fileMs: 100 })
    await delay(3_000)
    // On a busy machine a file may take longer, and is told of then.
    expect(busy.toldAfterMs.filter((ms) => ms < 950)).toEqual([])
  })
})
