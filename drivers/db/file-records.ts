/** The few set operations on file records: queue look-ups by index, then a compare-and-set for each record. */
import type { IngestError } from '../../domain/errors.ts'
import { whyOf } from '../../domain/explain.ts'
import * as machine from '../../domain/file.ts'
import { FILE_STATUSES, type FileRecord, fileId, LEASE_MS, SKEW_MS } from '../../domain/file-record.ts'
import { laterTurn, turnsAt } from '../../domain/order.ts'
import type { Sighting } from '../../domain/readiness.ts'
import { isAtRest, observe, type SightingRules } from '../../domain/sighting.ts'
import type { Collection, Index, Query } from './collection.ts'
import { type ListFilter, pageOf } from './file-pages.ts'

export const fileIndexes: Index[] = [
  { fields: { serverId: 1, path: 1, version: 1 }, unique: true, notInNedb: true },
  { fields: { reservedKey: 1 }, unique: true, partial: { reservedKey: { $exists: true } } },
  // The queues: what is due, by server and in the order of its policy.
  { fields: { status: 1, serverId: 1, turn: 1 }, inOrder: { status: 'pending' } },
  { fields: { status: 1, dueAt: 1 }, inOrder: { status: 'settling' } },
  { fields: { status: 1, leaseUntil: 1 } },
  // What waits for its file, in pages.
  { fields: { serverId: 1, status: 1, _id: 1 } },
  {
    fields: { 'announcement.status': 1, 'announcement.dueAt': 1 },
    inOrder: { 'announcement.status': 'due' }
  },
  // Only records with something to do on the server have this field.
  { fields: { 'afterUpload.dueAt': 1 }, partial: { 'afterUpload.dueAt': { $exists: true } } },
  // The list, newest first.
  { fields: { createdAt: -1, _id: -1 }, notInNedb: true },
  { fields: { serverId: 1, createdAt: -1, _id: -1 } }
]

interface KeyRules {
  keyOf(file: FileRecord, template?: string): string
  otherKeyOf(key: string, id: string): string
}

/** What a batch of sightings did. */
export interface Registered {
  new: number
  settling: number
  pending: number
  skipped: number
  /** Which sightings, by their place in the batch, change nothing now or later (see `isAtRest`). */
  atRest: number[]
  /** What was at rest until this batch changed it, as it was seen then. */
  disturbed: Sighting[]
}

type Placed = Sighting & { index: number }

function lastSighting({ path, size, mtime, status, reason }: FileRecord): Sighting {
  return { path, size, mtime, skip: status === 'skipped' ? reason : null }
}

const MAX_ROUNDS = 5
const PAGE_BYTES = 512 * 1024
const UNSTORED_OMITS = ['history', 'upload', 'error', 'settle', 'object', 'announcement']

export class FileRecords {
  readonly #files: Collection<FileRecord>
  readonly #keys: KeyRules

  constructor(files: Collection<FileRecord>, keys: KeyRules) {
    this.#files = files
    this.#keys = keys
  }

  /** The latest record of each path. Version 1 points to the latest; a pointer that lags is mended by the next insert. */
  async latest(serverId: string, paths: string[]): Promise<Map<string, FileRecord>> {
    const first = await this.#files.findByIds(paths.map((path) => fileId(serverId, path, 1)))
    const latest = new Map(first.map((file) => [file.path, file]))
    const later = first.filter((file) => file.latest > 1).map((file) => fileId(serverId, file.path, file.latest))
    if (later.length > 0) for (const file of await this.#files.findByIds(later)) latest.set(file.path, file)
    return latest
  }

  /** The highest version of the file's path. */
  async latestVersion(file: FileRecord): Promise<number> {
    const [first] = await this.#files.findByIds([fileId(file.serverId, file.path, 1)])
    return Math.max(file.version, first?.latest ?? 0)
  }

  /** Registers what was seen. Idempotent; whoever is faster wins, and what lost is looked at again. */
  async register(rules: SightingRules, sightings: Sighting[], now: number): Promise<Registered> {
    const answer: Registered = { new: 0, settling: 0, pending: 0, skipped: 0, atRest: [], disturbed: [] }
    // A listing may name a file twice; what it said last holds.
    let open = [...new Map(sightings.map((sighting, index) => [sighting.path, { ...sighting, index }])).values()]
    for (let round = 0; open.length > 0 && round < MAX_ROUNDS; round++) {
      open = await this.#registerOnce(rules, open, now, answer)
    }
    return answer
  }

  /** What `register` would do, without doing it; the answers are in the order of the sightings. */
  async preview(rules: SightingRules, sightings: Sighting[], now: number) {
    const counts = { new: 0, settling: 0, pending: 0, skipped: 0 }
    const latest = await this.latest(
      rules.serverId,
      sightings.map(({ path }) => path)
    )
    const whys = sightings.map((sighting) => {
      const file = latest.get(sighting.path) ?? null
      const seen = observe(file, sighting, rules, now)
      if (seen.kind === 'insert') counts.new++
      if (seen.kind !== 'nothing' && seen.record.status in counts) counts[seen.record.status as keyof typeof counts]++
      const changed = file !== null && (file.size !== sighting.size || file.mtime !== sighting.mtime)
      return whyOf(file, seen, changed)
    })
    return { counts, whys }
  }

  async #registerOnce(rules: SightingRules, sightings: Placed[], now: number, answer: Registered): Promise<Placed[]> {
    const latest = await this.latest(
      rules.serverId,
      sightings.map((sighting) => sighting.path)
    )
    const inserts: { record: FileRecord; sighting: Placed; before: FileRecord | null }[] = []
    const replaces: { from: FileRecord; to: FileRecord; sighting: Placed }[] = []
    for (const sighting of sightings) {
      const before = latest.get(sighting.path) ?? null
      const seen = observe(before, sighting, rules, now)
      if (seen.kind === 'insert') inserts.push({ record: seen.record, sighting, before })
      if (seen.kind === 'replace') replaces.push({ from: before!, to: seen.record, sighting })
      if (seen.kind === 'nothing' && isAtRest(before!) && rules.scanEpoch >= before!.seenEpoch) {
        answer.atRest.push(sighting.index)
      }
    }
    const again: Placed[] = []
    const count = (record: FileRecord, before: FileRecord | null) => {
      if (record.status in answer) answer[record.status as 'settling' | 'pending' | 'skipped']++
      if (before && isAtRest(before)) answer.disturbed.push(lastSighting(before))
    }
    const inserted = inserts.length > 0 ? await this.#files.insertNew(inserts.map(({ record }) => record)) : new Set()
    for (const { record, sighting, before } of inserts) {
      if (!inserted.has(record._id)) again.push(sighting)
      else {
        answer.new++
        count(record, before)
      }
    }
    await this.#point(inserts.filter(({ record }) => record.version > 1).map(({ record }) => record))
    const written = replaces.length > 0 ? await this.#files.replaceEach(replaces) : []
    for (const [index, { from, to, sighting }] of replaces.entries()) {
      if (written[index]) count(to, from)
      else again.push(sighting)
    }
    return again
  }

  /** Points version 1 of each path to a later version, also after a crash between the insert and this. */
  async #point(records: FileRecord[]): Promise<void> {
    const ids = new Map(records.map((file) => [fileId(file.serverId, file.path, 1), file.version]))
    await this.changeEach(
      [...ids].map(([id, version]) => ({ id, version })),
      (first, { version }) => (first.latest < version ? { ...first, latest: version } : null)
    )
  }

  /** Changes each record by compare-and-set, again for those that lost; null from `change` leaves a record alone. */
  async changeEach<H extends { id: string }>(
    holds: H[],
    change: (file: FileRecord, hold: H) => FileRecord | null
  ): Promise<FileRecord[]> {
    const changed: FileRecord[] = []
    let open = holds
    for (let round = 0; open.length > 0 && round < 20; round++) {
      const files = new Map((await this.#files.findByIds(open.map(({ id }) => id))).map((file) => [file._id, file]))
      const pairs: { from: FileRecord; to: FileRecord; hold: H }[] = []
      for (const hold of open) {
        const from = files.get(hold.id)
        const to = from ? change(from, hold) : null
        if (from && to) pairs.push({ from, to, hold })
      }
      const written = await this.#files.replaceEach(pairs)
      open = []
      for (const [index, { to, hold }] of pairs.entries()) {
        if (written[index]) changed.push(to)
        else open.push(hold)
      }
    }
    return changed
  }

  /** Servers with something to copy: one look at an index for each, not an aggregation over the backlog. */
  async serversWithWork(after: string, limit: number, now: number): Promise<string[]> {
    const servers: string[] = []
    let last = after
    while (servers.length < limit) {
      const query: Query = { status: 'pending', serverId: { $gt: last }, dueAt: { $lte: now } }
      const [file] = await this.#files.find(query, { sort: { serverId: 1 }, limit: 1, omit: ['history'] })
      if (!file) break
      servers.push(file.serverId)
      last = file.serverId
    }
    return servers
  }

  /** Those of the given servers with something to copy, in their order. */
  async withWork(serverIds: string[], limit: number, now: number): Promise<string[]> {
    const servers: string[] = []
    for (const serverId of serverIds) {
      if (servers.length === limit) break
      if ((await this.#candidates(serverId, 1, now)).length > 0) servers.push(serverId)
    }
    return servers
  }

  /** Later tries that are due, then files that were never tried, in the order of an index: nobody sorts the backlog. */
  async #candidates(serverId: string, limit: number, now: number): Promise<FileRecord[]> {
    const { later, first } = turnsAt(now)
    const found: FileRecord[] = []
    for (const turn of [later, first]) {
      if (found.length === limit) break
      const query: Query = { status: 'pending', serverId, turn }
      found.push(...(await this.#files.find(query, { sort: { turn: 1 }, limit: limit - found.length })))
    }
    return found
  }

  /** Pending records that were written before there were turns get one; answers how many. */
  giveTurns(): Promise<number> {
    return this.changeAll({ status: 'pending', turn: { $exists: false } }, (file) => ({
      ...file,
      turn: laterTurn(file.dueAt)
    }))
  }

  /** Candidates by an index, then a compare-and-set for each. */
  async claim(
    serverId: string,
    worker: string,
    limit: number,
    now: number,
    keyTemplate?: string
  ): Promise<FileRecord[]> {
    const candidates = await this.#candidates(serverId, limit, now)
    const pairs = candidates.flatMap((from) => {
      const to = machine.claim(from, worker, this.#keys.keyOf(from, keyTemplate), now)
      return to ? [{ from, to }] : []
    })
    const { written, isTaken } = await this.#tryEach(pairs)
    const others = pairs.map(({ from, to }, index) => {
      if (written[index]) return { ...to, revision: from.revision + 1 }
      return isTaken ? this.#reserve({ from, to }) : null
    })
    return (await Promise.all(others)).filter((file) => file !== null)
  }

  /** `replaceEach`, where a taken key (which of them is not known) is an answer and no error. */
  async #tryEach(pairs: { from: FileRecord; to: FileRecord }[]): Promise<{ written: boolean[]; isTaken: boolean }> {
    try {
      return { written: await this.#files.replaceEach(pairs), isTaken: false }
    } catch (error) {
      const { type, data } = error as IngestError
      if (type !== 'CONFLICT') throw error
      return { written: data?.written as boolean[], isTaken: true }
    }
  }

  /** The key is reserved with the claim, under a unique index; where it is taken the file gets another one. */
  async #reserve({ from, to }: { from: FileRecord; to: FileRecord }): Promise<FileRecord | null> {
    const first = await this.#tryEach([{ from, to }])
    if (first.written[0]) return { ...to, revision: from.revision + 1 }
    if (!first.isTaken) return null
    const other = { ...to, reservedKey: this.#keys.otherKeyOf(to.reservedKey!, to._id) }
    const [won] = await this.#files.replaceEach([{ from, to: other }])
    return won ? { ...other, revision: from.revision + 1 } : null
  }

  /** Leases that ran out; answers the server of each file that is free again, and what is dropped of them. */
  async rescue(now: number): Promise<{ serverIds: string[]; dropped: machine.DroppedUpload[] }> {
    const query: Query = { status: 'downloading', leaseUntil: { $lte: now - SKEW_MS } }
    const expired = await this.#files.find(query, { limit: 200 })
    const pairs = expired.flatMap((from) => {
      const to = machine.rescue(from, now, Math.random())
      return to ? [{ from, to }] : []
    })
    const written = await this.#files.replaceEach(pairs)
    const rescued = pairs.filter((_, index) => written[index])
    return {
      serverIds: rescued.map(({ from }) => from.serverId),
      dropped: rescued.flatMap(({ from, to }) => machine.droppedBy(from, to))
    }
  }

  /** Settling files whose next look is due; taking them moves the look on, so that each goes to one caller. */
  async claimLooks(limit: number, now: number): Promise<{ serverId: string; paths: string[] }[]> {
    const due = await this.#files.find({ status: 'settling', dueAt: { $lte: now } }, { sort: { dueAt: 1 }, limit })
    const pairs = due.map((from) => ({
      from,
      to: { ...from, leaseUntil: now + LEASE_MS, dueAt: now + LEASE_MS }
    }))
    const written = await this.#files.replaceEach(pairs)
    const byServer = new Map<string, string[]>()
    pairs.forEach(({ from }, index) => {
      if (!written[index]) return
      byServer.set(from.serverId, [...(byServer.get(from.serverId) ?? []), from.path])
    })
    return [...byServer].map(([serverId, paths]) => ({ serverId, paths }))
  }

  /** Records that wait for their file and were not touched by this scan, in pages by id of at most 512 KiB. */
  async unstored(serverId: string, scanEpoch: number, after: string): Promise<{ id: string; path: string }[]> {
    const query: Query = {
      // As a list, so that NeDB goes by the index of the states: what waits, not all files of the server.
      serverId: { $in: [serverId] },
      seenEpoch: { $lt: scanEpoch },
      _id: { $gt: after },
      status: { $in: ['settling', 'pending'] }
    }
    const found = await this.#files.find(query, { sort: { _id: 1 }, limit: 2000, omit: UNSTORED_OMITS })
    const page: { id: string; path: string }[] = []
    let bytes = 0
    for (const { _id, path } of found) {
      bytes += Buffer.byteLength(JSON.stringify(path)) + 64
      if (bytes > PAGE_BYTES) break
      page.push({ id: _id, path })
    }
    return page
  }

  async vanishedPaths(serverId: string, paths: string[], now: number): Promise<void> {
    const latest = await this.latest(serverId, paths)
    const holds = [...latest.values()].map(({ _id }) => ({ id: _id }))
    await this.changeEach(holds, (file) => machine.vanish(file, now))
  }

  async claimAnnouncements(limit: number, now: number): Promise<FileRecord[]> {
    const query: Query = { 'announcement.status': 'due', 'announcement.dueAt': { $lte: now } }
    const due = await this.#files.find(query, { sort: { 'announcement.dueAt': 1 }, limit })
    const pairs = due.flatMap((from) => {
      const to = machine.claimAnnouncement(from, now)
      return to ? [{ from, to }] : []
    })
    const written = await this.#files.replaceEach(pairs)
    return pairs.filter((_, index) => written[index]).map(({ to }) => to)
  }

  /** Sources to be deleted or moved, each to one caller, by server. */
  async claimAfterUploads(limit: number, now: number): Promise<FileRecord[]> {
    const query: Query = { 'afterUpload.dueAt': { $lte: now } }
    const due = await this.#files.find(query, { sort: { 'afterUpload.dueAt': 1 }, limit })
    const pairs = due.flatMap((from) => {
      const to = machine.claimAfterUpload(from, now)
      return to ? [{ from, to }] : []
    })
    const written = await this.#files.replaceEach(pairs)
    return pairs.filter((_, index) => written[index]).map(({ to }) => to)
  }

  async retryFailed(serverId: string | undefined, now: number): Promise<number> {
    return this.changeAll({ status: 'failed', ...(serverId ? { serverId } : {}) }, (file) => machine.retry(file, now))
  }

  /** Answers how many records changed, and what is dropped of them. */
  async abandon(serverId: string, now: number): Promise<{ abandoned: number; dropped: machine.DroppedUpload[] }> {
    const statuses = ['settling', 'pending', 'downloading', 'failed', 'vanished']
    const dropped: machine.DroppedUpload[] = []
    const abandoned = await this.changeAll({ serverId, status: { $in: statuses } }, (file) => {
      dropped.push(...machine.droppedUploads(file))
      return machine.abandon(file, now)
    })
    return { abandoned, dropped }
  }

  /** Changes all that a query finds, in pages; answers how many. */
  async changeAll(query: Query, change: (file: FileRecord) => FileRecord | null): Promise<number> {
    let changed = 0
    let last = ''
    for (;;) {
      const page = await this.#files.find({ ...query, _id: { $gt: last } }, { sort: { _id: 1 }, limit: 500 })
      if (page.length === 0) return changed
      last = page.at(-1)!._id
      const holds = page.map(({ _id }) => ({ id: _id }))
      changed += (await this.changeEach(holds, (file) => change(file))).length
    }
  }

  /** See `pageOf`. */
  page(filter: ListFilter) {
    return pageOf(this.#files, filter)
  }

  async stats(serverId: string | undefined, now: number) {
    const scope: Query = serverId ? { serverId } : {}
    const files = await this.#files.totals(scope)
    const waiting = { ...scope, status: { $in: ['pending', 'downloading'] } }
    const [oldest] = await this.#files.find(waiting, { sort: { createdAt: 1 }, limit: 1, omit: ['history'] })
    const due = await this.#files.count({ ...scope, 'announcement.status': 'due' })
    const pick = (status: string) => files[status] ?? { count: 0, bytes: 0 }
    const all = Object.fromEntries(FILE_STATUSES.map((status) => [status, pick(status)]))
    return {
      files: all,
      backlog: {
        count: pick('pending').count + pick('downloading').count,
        bytes: pick('pending').bytes + pick('downloading').bytes,
        oldestSeconds: oldest ? Math.max(0, Math.round((now - oldest.createdAt) / 1000)) : 0
      },
      announcements: { due }
    }
  }
}
