/**
 * Looks for what nobody should hold any more: leases and slots that ended and were neither given back nor taken over,
 * connections without a slot, and files that are still open on the SFTP server.
 */
import { existsSync } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { FileRecord } from '../../domain/file-record.ts'
import type { ServerRecord } from '../../domain/server.ts'
import { openBelow } from './handles.ts'

/** The two collections as the database has them. */
export interface Kept {
  servers: ServerRecord[]
  files: FileRecord[]
}

/** By then somebody else has taken over what a lease that ran out had held. */
const FORGOTTEN_MS = 60_000
/** What is on its way to its end has so long to get there: a worker that stood still hears of its lost slot within ten seconds. */
const CLOSING_MS = 30_000
/** In a row: a slot is held a moment before its connection is there, which would hide another one. */
const CLEAN_LOOKS = 4

/** Each lease, slot or duty that is over or overdue for a minute, as a sentence. */
export function forgotten({ servers, files }: Kept, now: number): string[] {
  const isPast = (until: number | undefined) => until !== undefined && until > 0 && until < now - FORGOTTEN_MS
  const ofServers = servers.flatMap(({ name, slots, state, scanLeaseUntil, removal }) => [
    ...slots
      .filter(({ until, holder }) => isPast(until) && !wasKilled(holder))
      .map(({ kind, holder }) => `${name}: a slot of ${holder} for a ${kind} was left`),
    ...(state === 'active' && isPast(scanLeaseUntil) ? [`${name}: the lease of a scan was left`] : []),
    ...(isPast(removal?.dueAt) ? [`${name}: its removal was left`] : [])
  ])
  const ofFiles = files.flatMap(({ path, leaseUntil, announcement, afterUpload }) => [
    ...(isPast(leaseUntil) ? [`${path}: the lease of a worker was left`] : []),
    ...(isPast(announcement?.leaseUntil) ? [`${path}: the lease of its announcement was left`] : []),
    ...(isPast(afterUpload?.leaseUntil) ? [`${path}: the lease of the step after its upload was left`] : [])
  ])
  return [...ofServers, ...ofFiles]
}

/** What a dead process held of a server that nobody visits stays written until the next visit, and counts for nothing. */
function wasKilled(holder: string): boolean {
  const [, pid] = /-(\d+)\/\w+$/.exec(holder) ?? []
  return pid !== undefined && !existsSync(`/proc/${pid}`)
}

/**
 * Connections beyond the slots of each address, and files below `root` that are open, though neither should be any more;
 * each a sentence. Scans go on meanwhile, so both are looked at several times.
 */
export async function stillOpen(
  root: string,
  servers: () => Promise<ServerRecord[]>,
  closingMs = CLOSING_MS
): Promise<string[]> {
  let clean = 0
  for (const giveUpAt = Date.now() + closingMs; ; await delay(250)) {
    const found = [...(await beyondSlots(await servers())), ...(await filesOpenBelow(root))]
    clean = found.length === 0 ? clean + 1 : 0
    if (clean === CLEAN_LOOKS || (clean === 0 && Date.now() > giveUpAt)) return found
  }
}

async function beyondSlots(servers: ServerRecord[]): Promise<string[]> {
  const found: string[] = []
  for (const [port, ofPort] of Map.groupBy(servers, (server) => server.port)) {
    const slots = ofPort.reduce((sum, server) => sum + server.slots.length, 0)
    const open = await connectionsTo(port)
    if (open > slots) found.push(`${open} connections to port ${port} are open, and ${slots} slots are held`)
  }
  return found
}

async function filesOpenBelow(root: string): Promise<string[]> {
  const found: string[] = []
  for (const path of await openBelow(root)) {
    // Folders are open while a scan lists them.
    if ((await stat(path).catch(() => null))?.isDirectory()) continue
    found.push(`${path} is still open`)
  }
  return found
}

/** ESTABLISHED, and CLOSE_WAIT: the other end has gone and ours was forgotten. */
const HELD_STATES = ['01', '08']

/** Sockets of this machine that lead to a port, from the side of whoever connected. */
export async function connectionsTo(port: number): Promise<number> {
  let count = 0
  for (const table of ['/proc/net/tcp', '/proc/net/tcp6']) {
    const lines = (await readFile(table, 'latin1').catch(() => '')).split('\n').slice(1)
    for (const line of lines) {
      const [, , remote = '', state = ''] = line.trim().split(/\s+/)
      if (HELD_STATES.includes(state) && Number.parseInt(remote.split(':')[1] ?? '', 16) === port) count++
    }
  }
  return count
}
