import { type FileHandle, open, realpath } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import type { FileRecord } from '../../domain/file-record.ts'
import type { ServerRecord } from '../../domain/server.ts'
import { connectionsTo, forgotten, stillOpen } from '../support/held.ts'
import { temporaryFolder } from '../support/process.ts'
import { waitFor } from '../support/wait.ts'

const now = Date.UTC(2026, 0, 1)
const over = now - 60_001
const serverOf = (more: object = {}) =>
  ({ name: 'acme', port: 22, slots: [], state: 'active', scanLeaseUntil: 0, ...more }) as unknown as ServerRecord
const fileOf = (more: object = {}) => ({ path: '/a', leaseUntil: 0, announcement: null, ...more }) as FileRecord

describe('the checker of what is held', () => {
  test('says nothing of what is free, and of what is held or was until just now', () => {
    const slots = [{ id: 's', holder: 'w', kind: 'scan', until: now - 59_000 }]
    const busy = serverOf({ slots, scanLeaseUntil: now + 1000, removal: { dueAt: now } })
    const held = fileOf({ leaseUntil: now - 59_000, announcement: { leaseUntil: now }, afterUpload: {} })
    expect(forgotten({ servers: [serverOf(), busy], files: [fileOf(), held] }, now)).toEqual([])
  })

  test('says nothing of a slot of a process that is dead, unlike of one that forgot it', () => {
    const of = (pid: number) => {
      const slots = [{ id: 's', holder: `node-${pid}/transfer`, kind: 'transfer', until: over }]
      return forgotten({ servers: [serverOf({ slots })], files: [] }, now)
    }
    expect(of(2 ** 30)).toEqual([])
    expect(of(process.pid)).toHaveLength(1)
  })

  test.each<[string, { server?: object; file?: object }]>([
    [
      'acme: a slot of w for a transfer was left',
      { server: { slots: [{ holder: 'w', kind: 'transfer', until: over }] } }
    ],
    ['acme: the lease of a scan was left', { server: { scanLeaseUntil: over } }],
    ['acme: its removal was left', { server: { removal: { dueAt: over } } }],
    ['/a: the lease of a worker was left', { file: { leaseUntil: over } }],
    ['/a: the lease of its announcement was left', { file: { announcement: { leaseUntil: over } } }],
    ['/a: the lease of the step after its upload was left', { file: { afterUpload: { leaseUntil: over } } }]
  ])('reports %s', (sentence, { server, file }) => {
    expect(forgotten({ servers: [serverOf(server)], files: [fileOf(file)] }, now)).toEqual([sentence])
  })

  describe('on a server', () => {
    let folder: Awaited<ReturnType<typeof temporaryFolder>>
    let root: string
    const listener = createServer()
    const sockets: Socket[] = []
    let file: FileHandle | undefined
    let port: number

    beforeAll(async () => {
      folder = await temporaryFolder('held')
      root = await realpath(folder.path)
      listener.on('connection', (socket) => sockets.push(socket))
      await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
      port = (listener.address() as AddressInfo).port
    })
    afterAll(async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => listener.close(resolve))
      await file?.close()
      await folder.remove()
    })

    test('reports a connection without a slot, and a file that is still open, when they stay', async () => {
      const slot = { id: 's', holder: 'w', kind: 'scan', until: over }
      expect(await stillOpen(root, async () => [serverOf({ port })])).toEqual([])
      sockets.push(connect(port, '127.0.0.1'))
      await waitFor(async () => (await connectionsTo(port)) === 1, { what: 'the connection' })
      expect(await stillOpen(root, async () => [serverOf({ port, slots: [slot] })])).toEqual([])
      file = await open(join(root, 'a'), 'w')
      expect(await stillOpen(root, async () => [serverOf({ port })], 500)).toEqual([
        `1 connections to port ${port} are open, and 0 slots are held`,
        `${join(root, 'a')} is still open`
      ])
    })

    test('waits for what is on its way to its end', async () => {
      await file?.close()
      file = undefined
      let asked = 0
      const servers = async () => {
        if (++asked === 2) for (const socket of sockets.splice(0)) socket.destroy()
        return [serverOf({ port })]
      }
      expect(await stillOpen(root, servers)).toEqual([])
      expect(asked).toBeGreaterThan(2)
    })
  })
})
