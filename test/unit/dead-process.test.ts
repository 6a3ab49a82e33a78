import { describe, expect, test } from '@jest/globals'
import { claimStep, makeDue, waitingForUpload } from '../../domain/after-upload.ts'
import * as machine from '../../domain/file.ts'
import { type FileRecord, LEASE_MS } from '../../domain/file-record.ts'
import { alternativeKey, objectKey } from '../../domain/object-key.ts'
import * as registry from '../../domain/server.ts'
import { newServer, parseNewServer } from '../../domain/server-input.ts'
import type { SightingRules } from '../../domain/sighting.ts'
import { freeFiles, freeServers } from '../../drivers/db/dead-leases.ts'
import { FileRecords, fileIndexes } from '../../drivers/db/file-records.ts'
import { memoryCollection } from '../support/memory-collection.ts'

const start = 1_700_000_000_000
/** Long before any lease is over. */
const soon = start + 1_000
const rules: SightingRules = {
  ...{ serverId: 's1', serverName: 'acme', onChange: 'ignore', scanEpoch: 1 },
  settle: { checks: 1, seconds: 0 }
}
const seen = (path: string) => ({ path, size: 1, mtime: 1000, skip: null })

function open() {
  const files = memoryCollection<FileRecord>(fileIndexes)
  const records = new FileRecords(files, { keyOf: objectKey, otherKeyOf: alternativeKey })
  const the = async (path: string) => (await files.find({ path }))[0]!
  const change = (file: FileRecord, to: (file: FileRecord) => FileRecord | null) =>
    records.changeEach([{ id: file._id }], to)
  /** Stored, announced by nobody yet. */
  const store = async (path: string) => {
    await records.register(rules, [seen(path)], start)
    const [held] = await records.claim('s1', 'w', 1, start)
    const checksum = { algorithm: 'crc32' as const, value: '00000000' }
    const object = { bucket: 'b', key: held!.reservedKey!, url: 'u', etag: 'e', size: 1, checksum }
    const stored = { kind: 'stored' as const, object, messageId: 'm' }
    await change(held!, (file) => machine.finish(file, file.epoch, stored, start, 0))
    return held!
  }
  return { files, records, the, change, store }
}

describe('what a process held that ended without a word', () => {
  test('a copy goes to the next worker, whose epoch fences the dead one out', async () => {
    const { records, the } = open()
    await records.register(rules, [seen('/a')], start)
    const [held] = await records.claim('s1', 'dead', 1, start)
    expect(await freeFiles(records, soon)).toContain('copy: 1')
    expect(await the('/a')).toMatchObject({ status: 'pending', attempts: 1, error: { type: 'WORKER_LOST' } })
    const { dueAt } = await the('/a')
    expect(dueAt - soon).toBeLessThanOrEqual(1_000)
    const [next] = await records.claim('s1', 'w2', 1, dueAt)
    expect(next!.epoch).toBe(held!.epoch + 1)
    expect(machine.finish(next!, held!.epoch, { kind: 'vanished' }, dueAt, 0)).toBeNull()
  })

  test('a copy that had finished a part costs no attempt, and one that kills its worker each time fails in the end', async () => {
    const { records, the, change } = open()
    await records.register(rules, [seen('/a'), seen('/b')], start)
    let now = start
    for (let n = 0; n < 8; n++) {
      for (const file of await records.claim('s1', 'dead', 2, now)) {
        if (file.path !== '/b') continue
        const parts = Array.from({ length: n + 1 }, (_, i) => ({ number: i, sizeBytes: 1, etag: '', crc32: '' }))
        const upload = { uploadId: 'u', partBytes: 1, size: 1, mtime: 1000, parts }
        await change(file, (held) => machine.keepUpload(held, held.epoch, upload, now))
      }
      await freeFiles(records, now)
      now += 10 * 60_000
    }
    expect(await the('/a')).toMatchObject({ status: 'failed', error: { type: 'WORKER_LOST' } })
    expect(await the('/b')).toMatchObject({ status: 'pending', attempts: 0 })
  })

  test('a look at a settling file is due, and one that nobody had waits for its time', async () => {
    const { records, the } = open()
    const slow = { ...rules, settle: { checks: 2, seconds: 60 } }
    await records.register(slow, [seen('/a')], start)
    const at = (await the('/a')).dueAt
    await records.register(slow, [seen('/b')], start + 10)
    expect(await records.claimLooks(10, at)).toEqual([{ serverId: 's1', paths: ['/a'] }])
    expect(await freeFiles(records, at + 1)).toContain('look: 1')
    expect((await the('/a')).dueAt).toBe(at + 1)
    expect((await the('/b')).dueAt).toBe(at + 10)
    await records.claimLooks(10, at + 1)
    // Its answer gives the look back.
    await records.register({ ...slow, scanEpoch: 2 }, [seen('/a')], at + 2)
    expect(await freeFiles(records, at + 3)).toBeNull()
  })

  test('an announcement is due under the next epoch, and one that waits after a failure is left alone', async () => {
    const { records, the, store, change } = open()
    const held = await store('/a')
    await store('/b')
    await records.claimAnnouncements(10, start)
    await change(await the('/b'), (file) => machine.announcementFailed(file, 1, null as never, 60_000, start))
    expect(await freeFiles(records, soon)).toContain('announcement: 1')
    const again = await records.claimAnnouncements(10, soon)
    expect(again.map(({ _id }) => _id)).toEqual([held._id])
    expect(again[0]!.announcement!.epoch).toBe(2)
    expect(machine.announced(again[0]!, 1, soon)).toBeNull()
  })

  test('a step after the upload is due under the next epoch, and one that waits after a failure is left alone', async () => {
    const { records, the, store, change } = open()
    for (const path of ['/a', '/b']) {
      await store(path)
      const afterUpload = makeDue(waitingForUpload, start)
      await change(await the(path), (file) => ({ ...file, status: 'notified', afterUpload }))
    }
    await records.claimAfterUploads(10, start)
    const retry = { kind: 'retry' as const, error: { type: 'SFTP_FAILURE', message: 'no', at: start } }
    await change(await the('/b'), (file) => machine.endAfterUpload(file, 1, retry, start, 1))
    expect(await freeFiles(records, soon)).toContain('step after an upload: 1')
    expect((await the('/a')).afterUpload).not.toHaveProperty('leaseUntil')
    expect((await records.claimAfterUploads(10, soon)).map(({ path }) => path)).toEqual(['/a'])
    expect((await the('/a')).afterUpload!.epoch).toBe(2)
    expect(claimStep((await the('/b')).afterUpload, soon)).toBeNull()
  })

  test('nothing is said where nothing was held', async () => {
    const { records, store } = open()
    await store('/a')
    await records.register({ ...rules, settle: { checks: 2, seconds: 9 } }, [seen('/b')], start)
    expect(await freeFiles(records, soon)).toBeNull()
  })

  test('connections are free and a scan is due, unless its server was told to wait meanwhile', async () => {
    const servers = memoryCollection<registry.ServerRecord>()
    const { input } = parseNewServer({ name: 'acme', host: 'h', username: 'u', password: 'p', maxConnections: 1 })
    const fresh = (id: string) => ({ ...newServer(id, input, {}, start), name: id })
    const slot = { id: 'c', holder: 'dead/scanner', kind: 'scan' as const }
    const scanned = (id: string) => registry.claimScan(fresh(id), slot, start, 0)
    const error = { type: 'SFTP_UNREACHABLE', message: 'no', at: start }
    const failing = registry.serverFailed(scanned('failing'), error, false, start, { ended: false })
    await servers.insertNew([fresh('idle'), scanned('scanned'), failing])
    expect(await freeServers(servers, soon)).toMatch(/connection: 2, scan: 2$/)
    const [idle, free, waiting] = await servers.findByIds(['idle', 'scanned', 'failing'])
    expect(idle!.revision).toBe(0)
    expect(registry.isScanDue(free!, soon)).toBe(true)
    expect(registry.claimScan(free!, slot, soon, 0)).toMatchObject({
      scanEpoch: 2,
      slots: [{ until: soon + LEASE_MS }]
    })
    expect(waiting).toMatchObject({ slots: [], scanLeaseUntil: 0, nextScanAt: failing.nextScanAt })
    expect(await freeServers(servers, soon)).toBeNull()
  })
})
