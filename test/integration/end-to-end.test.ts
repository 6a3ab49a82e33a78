import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import mongoose from 'mongoose'
import { checkEverything } from '../support/checker.ts'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, directStore, type Longshore, waitFor } from '../support/longshore.ts'
import { hostileNames, writeSource } from '../support/source-files.ts'
import { startWorld, type World } from '../support/world.ts'

const MiB = 1024 * 1024

/** Paths and sizes: every border of the copy, and 200 small ones in nested folders. */
function sources(): [string, number][] {
  const sized: [string, number][] = [
    ['empty', 0],
    ['one-byte', 1],
    ['small-limit', 5 * MiB],
    ['small-limit-and-one', 5 * MiB + 1],
    ['four-parts-less-one', 64 * MiB - 1],
    ['four-parts', 64 * MiB],
    ['four-parts-and-one', 64 * MiB + 1],
    ['large', 300_000_000]
  ]
  for (let index = 0; index < 200; index++) {
    const name = hostileNames[index] ?? `file-${index}.dat`
    const folder = ['', 'a/', 'a/b/', 'a/b c/d/', 'ü\n/-x/'][index % 5]
    sized.push([`small/${folder}${name}`, (index * 7919) % 30_000])
  }
  // The same name in another folder, and a folder whose name is an odd file's.
  sized.push(['small/100% sure/%2e%2e/file', 10], ['small/x/...', 11])
  return sized
}

describe('seven processes, one of each service', () => {
  let world: World
  let backends: Backends
  let longshore: Longshore
  let consumer: Consumer
  let serverId: string

  beforeAll(async () => {
    world = await startWorld()
    ;({ backends, longshore, consumer } = world)
  })
  afterAll(() => world?.stop())

  const status = async () => JSON.stringify((await longshore.api.get('/stats')).files)

  test('every file of the server is stored, recorded and announced once, whatever its size and name', async () => {
    const files = sources()
    for (const [path, size] of files) await writeSource(backends.root, path, size)
    const server = backends.server({
      roots: [backends.root],
      interval: 2,
      settle: { checks: 1, seconds: 0 },
      tempPatterns: ['.draft-*']
    })
    serverId = (await longshore.api.post('/servers', server)).id
    await waitFor(async () => (await longshore.api.get('/stats')).files.notified.count === files.length, {
      timeoutMs: 180_000,
      what: `${files.length} files to be notified`,
      explain: status
    })
    const report = await checkEverything({ backends, longshore, consumer })
    expect(report.problems).toEqual([])
    expect(report).toMatchObject({ files: files.length, messages: files.length, duplicates: 0 })
  })

  test('a restart of all of them downloads and announces nothing again', async () => {
    const before = await longshore.api.files()
    const messages = consumer.messages.length
    const stoppedAt = new Date().toISOString()
    await longshore.restart()
    // Two more scans, so that what the first one might have set going would be seen.
    for (let scans = 0; scans < 2; scans++) {
      const summary = await longshore.api.post(`/servers/${serverId}/scan?wait=true`)
      expect(summary).toMatchObject({ listed: before.length, new: 0, pending: 0, settling: 0 })
    }
    const server = await longshore.api.get(`/servers/${serverId}`)
    expect(server.lastError).toBeNull()
    expect(server.lastScan.startedAt > stoppedAt).toBe(true)
    expect(await longshore.api.files()).toEqual(before)
    expect(consumer.messages).toHaveLength(messages)
    const report = await checkEverything({ backends, longshore, consumer })
    expect(report.problems).toEqual([])
  })

  test('the checker sees what is wrong', async () => {
    const at = (path: string) => `${backends.root}/${path}`
    const records = await longshore.api.files()
    const keyOf = (path: string) => records.find((record) => record.path === at(path)).object.key
    const store = directStore(backends)
    await store.remove(keyOf('one-byte'))
    await store.put('stray', Buffer.alloc(0), { metadata: {}, crc32: '00000000', condition: null })
    await store.createUpload(keyOf('large'), {}, null)
    await store.close()
    await writeFile(at('small-limit'), 'other bytes')
    // A temporary name to this server's policy, so that it stays without a record.
    await writeFile(at('.draft-unseen'), '')
    await writeFile(at('.longshore-aside'), '')
    await writeFile(join(longshore.folders.temporary, 'part-1'), '')
    await writeFile(join(longshore.dataDir, 'files.db~'), '')
    const database = await mongoose.createConnection(backends.mongo.url).asPromise()
    const slots = [{ id: 's', holder: 'a dead worker', kind: 'scan', until: Date.now() - 61_000 }]
    // Of a server that was removed: nobody takes a slot there, which would free this one.
    const gone = { _id: 'gone', name: 'gone', deletedAt: 1, state: 'stopped', slots }
    await database.collection<{ _id: string }>('servers').insertOne(gone)
    await database.close()
    await longshore.api.post(`/servers/${serverId}/pause`)
    const socket = connect(backends.sshd.port, backends.sshd.host)
    await once(socket, 'connect')
    const silent = consumer.messages.filter(({ event }) => event.subject !== at('empty'))
    const [first] = silent
    const messages = [...silent, { ...first!, messageId: 'another', event: { ...first!.event, id: 'another' } }]
    const { problems, duplicates } = await checkEverything({
      backends,
      longshore: { ...longshore, output: () => `the key is ${longshore.keys.admin}` },
      consumer: { ...consumer, messages }
    })
    socket.destroy()
    const has = (pattern: RegExp) => expect(problems).toContainEqual(expect.stringMatching(pattern))
    has(/one-byte": no object of its own/)
    has(/object "stray" belongs to no record/)
    has(/large": 1 multipart uploads were left/)
    has(/small-limit" has size 5242880, not 11/)
    has(/small-limit": the object is not the source/)
    has(/\.draft-unseen" has no record/)
    has(/empty" was never announced/)
    has(/messages with ids .*, another/)
    has(/a secret is in the output/)
    has(/\.longshore-aside was left aside/)
    has(/part-1 was left/)
    has(/files\.db~ was left/)
    has(/gone: a slot of a dead worker for a scan was left/)
    has(/connections to port \d+ are open/)
    expect(duplicates).toBe(1)
  })
})
