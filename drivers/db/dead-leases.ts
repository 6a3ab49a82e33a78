/** Frees at once what a process that is known to be dead still holds, see domain/dead-process.ts. */
import { freeAfterUpload, freeAnnouncement, freeLook, freeServer } from '../../domain/dead-process.ts'
import * as machine from '../../domain/file.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import type { ServerRecord } from '../../domain/server.ts'
import type { Collection, Query } from './collection.ts'
import type { FileRecords } from './file-records.ts'
import { mutateEach } from './mutate.ts'

const ENDED = 'the process that copied it has ended'

type Free = (file: FileRecord, now: number) => FileRecord | null

/** By what is held: which records, each by an index, and how they are freed. */
const heldOfFiles: Record<string, { query: Query; free: Free }> = {
  copy: {
    query: { status: 'downloading' },
    free: (file, now) => machine.handOver(file, ENDED, now, Math.random())
  },
  look: { query: { status: 'settling', leaseUntil: { $gt: 0 } }, free: freeLook },
  announcement: {
    query: { 'announcement.status': 'due', 'announcement.leaseUntil': { $gt: 0 } },
    free: freeAnnouncement
  },
  'step after an upload': {
    query: { 'afterUpload.dueAt': { $gt: 0 }, 'afterUpload.leaseUntil': { $gt: 0 } },
    free: freeAfterUpload
  }
}

/** Answers what was freed, in words; null when nothing was held. */
export async function freeFiles(records: FileRecords, now: number): Promise<string | null> {
  const counts: Record<string, number> = {}
  for (const [what, { query, free }] of Object.entries(heldOfFiles)) {
    counts[what] = await records.changeAll(query, (file) => free(file, now))
  }
  return told(counts)
}

/** The same of connections and scans. */
export async function freeServers(servers: Collection<ServerRecord>, now: number): Promise<string | null> {
  const held = (await servers.find({})).filter((server) => freeServer(server, now) !== null)
  const counts = { connection: 0, scan: 0 }
  for (const { slots, scanLeaseUntil } of held) {
    counts.connection += slots.length
    if (scanLeaseUntil > 0) counts.scan++
  }
  await mutateEach(
    servers,
    held,
    ({ _id }) => _id,
    (server) => freeServer(server, now)
  )
  return told(counts)
}

function told(counts: Record<string, number>): string | null {
  const parts = Object.entries(counts).flatMap(([what, count]) => (count > 0 ? [`${what}: ${count}`] : []))
  return parts.length > 0
    ? `the last process ended while it held these, which are free at once: ${parts.join(', ')}`
    : null
}
