import { afterEach, describe, expect, test } from '@jest/globals'
import { type TransferWorld, transferWorld } from '../support/transfer-world.ts'
import { waitFor } from '../support/wait.ts'

let world: TransferWorld | null = null
afterEach(async () => {
  await world?.stop()
  world = null
})

describe('a worker whose node leaves', () => {
  test('claims nothing more, ends or hands back what it holds, and its connections, before its service is stopped', async () => {
    const servers = ['a', 'b', 'c']
    const files = 5_000
    world = await transferWorld({ fileMs: 100, connectMs: (id) => (id === 'c' ? 3_600_000 : 10) })
    const { broker, pending, stored, handedBack, connected } = world
    for (const serverId of servers) {
      pending.set(serverId, files)
      broker.emit('file.pending', { serverId })
    }
    await waitFor(() => stored.size === 2 && connected.size === 2, { what: 'files of two servers to be stored' })
    await broker.broadcastLocal('node.leaving')
    const left = new Map(pending)
    await waitFor(() => connected.size === 0, { what: 'the connections to be given back' })
    // A claim may have been under way.
    for (const serverId of ['a', 'b']) expect(left.get(serverId)! - pending.get(serverId)!).toBeLessThanOrEqual(64)
    const after = new Map(pending)
    broker.emit('file.pending', { serverId: 'a' })
    await broker.call('transfer.takeWork')
    expect(connected.size).toBe(0)
    expect(pending).toEqual(after)
    expect(pending.get('c')).toBe(files)
    for (const serverId of ['a', 'b']) {
      expect(handedBack.get(serverId)).toBeGreaterThan(0)
      expect(pending.get(serverId)! + stored.get(serverId)! + handedBack.get(serverId)!).toBe(files)
    }
  })
})
