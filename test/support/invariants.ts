/**
 * What must be true after every run, whatever happened during it: the source, the records, the store and everything
 * that a consumer received are held against each other. Pure: from a snapshot to sentences. `checker.ts` collects the
 * snapshot of real backends, the simulation that of its own.
 */
import type { FileStatus } from '../../domain/file-record.ts'
import { alternativeKey, objectKey } from '../../domain/object-key.ts'
import { follows } from './transitions.ts'

export interface Content {
  size: number
  sha256: string
  /** ms since the epoch; null where it was not watched. */
  mtime: number | null
}

/** One path of one server. */
export interface Source {
  serverId: string
  path: string
  /** Everything that it ever held, the last one last. */
  contents: Content[]
  /** Whether it is on the server now, with the last of its contents. */
  isThere: boolean
  /** Whether the policy takes it. */
  isTaken: boolean
}

export interface CheckedRecord {
  id: string
  serverId: string
  serverName: string
  path: string
  version: number
  size: number
  /** ms since the epoch. */
  mtime: number
  status: FileStatus
  /** Whether its source was deleted, moved, or found replaced, so that the next file of the name is a new version. */
  released?: boolean
  /** What an operator reads of why it is as it is. */
  why: string | null
  object: { key: string; size: number; told: string; storedAt: number } | null
  /** The id that the record says its message has. */
  messageId: string | null
  history: { at: number; status: FileStatus }[]
  historyDropped: number
}

export interface CheckedMessage {
  messageId: string
  contentType: string
  /** ms since the epoch; null where nobody looked at a clock. */
  receivedAt: number | null
  fileId: string
  eventId: string
  subject: string
  path: string
  /** Bucket, key, etag, size and checksum in one text, as a record's object has them. */
  told: string
}

export interface Snapshot {
  sources: Source[]
  records: CheckedRecord[]
  /** By key. */
  objects: Map<string, { size: number; sha256: string }>
  uploads: { key: string; uploadId: string }[]
  /** Slots, leases, connections, handles, temporary files that nobody should hold any more; each a sentence. */
  leftovers: string[]
  messages: CheckedMessage[]
  /** Where a secret must not be: a name of the place, and what is written there. */
  texts: Record<string, string>
  secrets: string[]
}

export interface Rules {
  /**
   * `notified`: every record is, and is equal to what the source holds now. `settled`: files came, changed and went,
   * and some had to fail; each ends in a state that it stays in, with a reason, and what is stored was once the source.
   */
  end: 'notified' | 'settled'
  /** Servers where a stored file that changes becomes the next version. */
  versioned?: (serverId: string) => boolean
  /** How far the clocks of those who write histories were apart. */
  skewMs?: number
  /** Whether the sweep of stale uploads has run: then those of files that failed are gone, too. */
  isSwept?: boolean
}

export interface Verdict {
  problems: string[]
  /** Messages beyond the first of their file; permitted by at-least-once delivery. */
  duplicates: number
}

const shown = (path: string) => JSON.stringify(path)
const keyOf = (serverId: string, path: string) => `${serverId}\0${path}`
const RESTING: FileStatus[] = ['notified', 'failed', 'skipped', 'vanished']

export function judge(snapshot: Snapshot, rules: Rules): Verdict {
  const problems: string[] = []
  checkRecords(snapshot, rules, problems)
  for (const record of snapshot.records) checkHistory(record, rules, problems)
  checkObjects(snapshot, rules, problems)
  checkUploads(snapshot, rules, problems)
  const duplicates = checkMessages(snapshot, rules, problems)
  problems.push(...snapshot.leftovers)
  for (const [place, text] of Object.entries(snapshot.texts)) {
    if (snapshot.secrets.some((secret) => text.includes(secret))) problems.push(`a secret is in ${place}`)
  }
  return { problems, duplicates }
}

function checkRecords({ sources, records }: Snapshot, rules: Rules, problems: string[]): void {
  const byPath = Map.groupBy(records, ({ serverId, path }) => keyOf(serverId, path))
  const bySource = new Map(sources.map((source) => [keyOf(source.serverId, source.path), source]))
  for (const [key, { path, isThere, isTaken }] of bySource) {
    if (isThere && isTaken && !byPath.has(key)) problems.push(`${shown(path)} has no record`)
  }
  for (const [key, versions] of byPath) {
    versions.sort((a, b) => a.version - b.version)
    const { path, serverId } = versions[0]!
    const source = bySource.get(key)
    if (versions.some(({ version }, index) => version !== index + 1) || hasTooMany(versions, rules, serverId)) {
      problems.push(`${shown(path)} has ${versions.length} records, of versions ${versions.map((one) => one.version)}`)
    }
    for (const record of versions) checkEnd(record, source, rules, problems)
    if (source?.isThere && source.isTaken) checkPresent(versions.at(-1)!, source, rules, problems)
    else if (rules.end === 'notified') problems.push(`${shown(path)} has a record and is not on the server`)
  }
}

function hasTooMany(versions: CheckedRecord[], { versioned, end }: Rules, serverId: string): boolean {
  if (versions.length === 1) return false
  return end === 'notified' || !(versioned?.(serverId) || versions.slice(0, -1).every(({ released }) => released))
}

/** The state of rest, and its reason. */
function checkEnd(record: CheckedRecord, source: Source | undefined, rules: Rules, problems: string[]): void {
  const { path, status, why } = record
  const isFine = rules.end === 'notified' ? status === 'notified' : RESTING.includes(status)
  if (!isFine) problems.push(`${shown(path)} is ${status}: ${why ?? ''}`)
  if ((status === 'failed' || status === 'skipped') && !why)
    problems.push(`${shown(path)} is ${status} without a reason`)
  if (!source) problems.push(`${shown(path)} has a record, and was never on the server`)
}

/** The newest record of a path that is there and that the policy takes. */
function checkPresent(record: CheckedRecord, source: Source, rules: Rules, problems: string[]): void {
  const { path, status, size } = record
  const now = source.contents.at(-1)!
  const isStored = status === 'notified' || status === 'uploaded'
  const isSame = size === now.size && (now.mtime === null || now.mtime === record.mtime)
  if (record.released) problems.push(`${shown(path)} has made way for a next version, and there is none`)
  if (status === 'vanished') problems.push(`${shown(path)} is vanished, and is on the server`)
  // A stored file that changes is left alone, unless changes are versions.
  else if (!isSame && (rules.end === 'notified' || !isStored || rules.versioned?.(record.serverId))) {
    problems.push(`${shown(path)} has size ${size}, not ${now.size}, or another time`)
  }
}

function checkHistory(record: CheckedRecord, { end, skewMs = 0 }: Rules, problems: string[]): void {
  const { path, history, historyDropped, status } = record
  if (historyDropped > 0 && end === 'notified')
    problems.push(`${shown(path)}: ${historyDropped} entries of its history were dropped`)
  let before: FileStatus | 'null' | null = historyDropped > 0 ? null : 'null'
  let at = Number.NEGATIVE_INFINITY
  for (const entry of history) {
    if (before !== null && !follows[before].includes(entry.status))
      problems.push(`${shown(path)} went from ${before} to ${entry.status}`)
    if (entry.at < at - skewMs)
      problems.push(`${shown(path)}: its history goes back in time at ${new Date(entry.at).toISOString()}`)
    before = entry.status
    at = Math.max(at, entry.at)
  }
  if (before !== status) problems.push(`${shown(path)} is ${status}, and its history ends in ${before}`)
}

function checkObjects({ sources, records, objects }: Snapshot, rules: Rules, problems: string[]): void {
  const bySource = new Map(sources.map((source) => [keyOf(source.serverId, source.path), source]))
  const orphans = new Set(objects.keys())
  for (const { path, object, status } of records) {
    if (object === null && (rules.end === 'notified' || status === 'notified' || status === 'uploaded'))
      problems.push(`${shown(path)} has no object`)
  }
  for (const record of records) {
    const { path, object, serverId, size, mtime } = record
    if (!object) continue
    if (!orphans.delete(object.key)) problems.push(`${shown(path)}: no object of its own under ${shown(object.key)}`)
    const stored = objects.get(object.key)
    const source = bySource.get(keyOf(serverId, path))
    if (!stored || !source) continue
    const contents = rules.end === 'notified' ? source.contents.slice(-1) : source.contents
    const isRight = contents.some((content) => {
      const isOfThen = rules.end === 'notified' || content.mtime === null || content.mtime === mtime
      return content.sha256 === stored.sha256 && isOfThen
    })
    if (!isRight) problems.push(`${shown(path)}: the object is not the source (${stored.sha256})`)
    if (stored.size !== size || object.size !== size)
      problems.push(`${shown(path)}: the record says ${size} bytes, the object has ${stored.size}`)
  }
  // Stored by a worker that died, and the source was gone before the next one came.
  for (const record of records) if (!record.object) for (const key of keysOf(record)) orphans.delete(key)
  for (const key of orphans) problems.push(`the object ${shown(key)} belongs to no record`)
}

function keysOf(record: CheckedRecord): string[] {
  const key = objectKey(record)
  return [key, alternativeKey(key, record.id)]
}

function checkUploads({ records, uploads }: Snapshot, rules: Rules, problems: string[]): void {
  const mayBeLeft = new Set(records.filter((one) => one.object === null || wasTakenBack(one)).flatMap(keysOf))
  const isKept = (key: string) => rules.end === 'settled' && !rules.isSwept && mayBeLeft.has(key)
  for (const [key, left] of Map.groupBy(uploads, (upload) => upload.key)) {
    if (!isKept(key)) problems.push(`${shown(key)}: ${left.length} multipart uploads were left`)
  }
}

/** Its object is a later one than that of its first message. */
function wasFetchedAgain({ history }: CheckedRecord): boolean {
  return history.some(
    ({ status }, index) => status === 'pending' && /uploaded|notified/.test(history[index - 1]?.status ?? '')
  )
}

/** It was to be fetched again, and that was given up: the word that its upload is to be aborted may have been lost. */
function wasTakenBack({ history }: CheckedRecord): boolean {
  return history.some(
    ({ status }, index) => /uploaded|notified/.test(status) && history[index - 1]?.status === 'pending'
  )
}

/** The number of repeats. */
function checkMessages({ records, messages }: Snapshot, rules: Rules, problems: string[]): number {
  const byId = new Map(records.map((record) => [record.id, record]))
  const ids = new Map<string, string>()
  let duplicates = 0
  for (const message of messages) {
    const { messageId, contentType, eventId, fileId, subject, receivedAt } = message
    const record = byId.get(fileId)
    const path = shown(subject)
    if (!record) {
      problems.push(`a message for ${path}, which has no record`)
      continue
    }
    if (contentType !== 'application/cloudevents+json') problems.push(`${path}: its message is ${contentType}`)
    if (messageId !== eventId) problems.push(`${path}: messageId ${messageId} and event id ${eventId} differ`)
    if (subject !== record.path || message.path !== record.path) problems.push(`${path}: the message has another path`)
    if (record.object === null) problems.push(`${path}: a message without an object`)
    else if (message.told !== record.object.told) problems.push(`${path}: the message tells of another object`)
    if (
      record.object &&
      !wasFetchedAgain(record) &&
      receivedAt !== null &&
      receivedAt < record.object.storedAt - (rules.skewMs ?? 0)
    )
      problems.push(`${path}: the message came before its object`)
    const known = ids.get(fileId)
    if (known === undefined) ids.set(fileId, messageId)
    else duplicates++
    if (known !== undefined && known !== messageId) problems.push(`${path}: messages with ids ${known}, ${messageId}`)
  }
  for (const { id, path, status, messageId } of records) {
    if (!ids.has(id)) {
      if (rules.end === 'notified' || status === 'notified') problems.push(`${shown(path)} was never announced`)
    } else if (messageId !== ids.get(id)) problems.push(`${shown(path)}: the record has another message id`)
  }
  if (new Set(ids.values()).size !== ids.size) problems.push('two files were announced under one id')
  return duplicates
}
