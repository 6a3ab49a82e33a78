/**
 * What a file record costs in the embedded database, which keeps all of its records in memory.
 *
 *   node bench/embedded-memory.ts            50,000 records
 *   node bench/embedded-memory.ts 200000     another number
 *
 * Each record has gone all the way to `notified`, by the functions of the state machine, with a path of 60 to 70
 * characters and one attempt. The figures are differences between an empty database and a full one: of the heap after a
 * garbage collection, of the process, and of the file on disk.
 */
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { messageIdOf } from '../domain/announcement.ts'
import { announced, claim, claimAnnouncement, finish } from '../domain/file.ts'
import type { FileRecord } from '../domain/file-record.ts'
import { objectKey } from '../domain/object-key.ts'
import { observe } from '../domain/sighting.ts'
import { openDatabase } from '../drivers/db/connection.ts'
import { fileIndexes } from '../drivers/db/file-records.ts'

const BATCH = 500
const count = Number(process.argv[2] ?? 50_000)
if (!Number.isInteger(count) || count < BATCH) {
  console.error(`give a number of records from ${BATCH}`)
  process.exit(2)
}

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

const serverId = '6f1f2f0a-51f4-4e0c-9a55-3f2f0f5d8c11'
const rules = {
  serverId,
  serverName: 'partner',
  settle: { checks: 2, seconds: 30 },
  onChange: 'ignore' as const,
  scanEpoch: 1
}

/** A record that was seen twice, copied and announced. */
function notifiedRecord(number: number): FileRecord {
  const path = `/outgoing/invoices/2030/01/${String(number % 1000).padStart(4, '0')}/INVOICE-2030-01-31-${String(number).padStart(8, '0')}.xml`
  const sighting = { path, size: 1000 + number, mtime: 1_895_000_000_000 + number * 1000, skip: null }
  const now = 1_895_100_000_000 + number
  let file = recordOf(observe(null, sighting, rules, now))
  file = recordOf(observe(file, sighting, rules, now + 30_000))
  file = claim(file, 'node-1/transfer', objectKey(file), now + 31_000)!
  const object = {
    bucket: 'longshore',
    key: file.reservedKey!,
    url: `https://files.example.com/longshore/${file.reservedKey}`,
    etag: String(number).padStart(32, '0'),
    size: file.size,
    checksum: { algorithm: 'crc32' as const, value: '0a1b2c3d' }
  }
  file = finish(file, 1, { kind: 'stored', object, messageId: messageIdOf(file._id) }, now + 32_000, 0)!
  return announced(claimAnnouncement(file, now + 32_100)!, 1, now + 32_200)!
}

function recordOf(seen: ReturnType<typeof observe>): FileRecord {
  if (seen.kind === 'nothing') throw new Error('the state machine refused a record of this script')
  return seen.record
}

function memory(): { heap: number; rss: number } {
  collectGarbage()
  const { heapUsed, rss } = process.memoryUsage()
  return { heap: heapUsed, rss }
}

const folder = await mkdtemp(join(tmpdir(), 'longshore-memory-'))
try {
  const database = await openDatabase({ mongoUrl: null, dataDir: folder })
  const adapter = database.adapter('files')
  await adapter.connect()
  const files = await database.collection<FileRecord>(adapter, fileIndexes)
  const before = memory()
  for (let first = 0; first < count; first += BATCH) {
    const batch = Array.from({ length: Math.min(BATCH, count - first) }, (_, index) => notifiedRecord(first + index))
    await files.insertNew(batch)
  }
  const after = memory()
  const { size } = await stat(join(folder, 'files.db'))
  const each = (bytes: number) => `${(bytes / count / 1024).toFixed(1)} KiB a record`
  console.log(`${count} records`)
  console.log(`  heap     ${each(after.heap - before.heap)}`)
  console.log(`  process  ${each(after.rss - before.rss)}`)
  console.log(`  on disk  ${each(size)}`)
  await database.close()
} finally {
  await rm(folder, { recursive: true, force: true })
}
