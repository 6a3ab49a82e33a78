/** What the checker judges, of a simulated world. */
import type { FileRecord, ObjectInfo } from '../../domain/file-record.ts'
import { OWN_PREFIX } from '../../domain/filter.ts'
import type { CheckedMessage, CheckedRecord, Snapshot, Source } from '../support/invariants.ts'
import type { Backends } from './node.ts'
import type { Policy } from './scenario.ts'
import type { SourceServer } from './sources.ts'
import { sha256Of } from './store.ts'

export interface Partner {
  source: SourceServer
  readonly policy: Policy
  /** An operator removed the server, perhaps with all that was stored of it. */
  removed: { purge: boolean } | null
  /** Whether the policy takes a file of this name. */
  takes(path: string): boolean
}

export function snapshotOf({ database, store, queue, world }: Backends, partners: Partner[]): Snapshot {
  const files = [...database.collection<FileRecord>('files').documents.values()]
  const isPurged = (serverId: string) =>
    partners.some(({ source, removed }) => source.id === serverId && removed?.purge)
  return {
    sources: partners.flatMap(sourcesOf),
    records: files.filter(({ serverId }) => !isPurged(serverId)).map(recordOf),
    objects: new Map(
      [...store.objects].map(([key, { sizeBytes, content }]) => [key, { size: sizeBytes, sha256: sha256Of(content) }])
    ),
    uploads: [...store.uploads].map(([uploadId, { key }]) => ({ key, uploadId })),
    leftovers: [
      ...files
        .filter(({ serverId }) => isPurged(serverId))
        .map(({ path }) => `${path} of a purged server has a record`),
      ...partners.flatMap((partner) => leftAtPartner(partner, files))
    ],
    messages: queue.delivered
      .filter(({ message }) => !isPurged(serverOf(message.body)))
      .map(({ message, at }) => messageOf(message.messageId, message.body, at)),
    texts: { 'the log': world.log.join('\n'), 'the messages': JSON.stringify(queue.delivered) },
    secrets: partners.map(({ source }) => source.password)
  }
}

function serverOf(body: object): string {
  return (body as { data: { serverId: string } }).data.serverId
}

/** What `afterUpload` has not done, or not where its record says. */
function leftAtPartner({ source, removed, policy }: Partner, files: FileRecord[]): string[] {
  if (removed || policy.afterUpload === 'keep') return []
  const ours = files.filter(({ serverId }) => serverId === source.id)
  const moved = new Map(ours.flatMap((file) => (file.afterUpload?.movedTo ? [[file.afterUpload.movedTo, file]] : [])))
  const problems = ours.flatMap(({ path, status, afterUpload }) => {
    const isOpen = status === 'notified' && (!afterUpload || ['waiting', 'due'].includes(afterUpload.status))
    return isOpen ? [`${path}: its source was announced and is not cleared: ${JSON.stringify(afterUpload)}`] : []
  })
  for (const [to, { path, size, mtime }] of moved) {
    const there = source.files.get(to)
    if (there?.size !== size || there.mtimeSeconds * 1000 !== mtime)
      problems.push(`${path} was moved to ${to}, and is not there`)
  }
  for (const path of source.files.keys()) {
    if (path.includes(`/${OWN_PREFIX}`)) problems.push(`${path} was left aside`)
    const isTaken = path.startsWith('/out/taken/') || path.startsWith('/archive/')
    if (isTaken && !moved.has(path)) problems.push(`${path} was moved there, and no record says so`)
  }
  return problems
}

function sourcesOf({ source, removed, takes }: Partner): Source[] {
  return [...source.history].map(([path, held]) => ({
    serverId: source.id,
    path,
    contents: held.map(({ size, sha256, mtime }) => ({ size, sha256, mtime })),
    isThere: source.files.has(path),
    isTaken: !removed && takes(path)
  }))
}

function toldOf({ bucket, key, etag, size, checksum }: Omit<ObjectInfo, 'storedAt'>): string {
  return JSON.stringify([bucket, key, etag, size, checksum.value])
}

function recordOf(file: FileRecord): CheckedRecord {
  const { _id: id, serverId, serverName, path, version, size, mtime, status, object, historyDropped } = file
  return {
    ...{ id, serverId, serverName, path, version, size, mtime, status, historyDropped },
    released: file.released,
    why: file.error?.message ?? file.reason,
    object: object && { key: object.key, size: object.size, told: toldOf(object), storedAt: object.storedAt },
    messageId: file.announcement?.messageId ?? null,
    history: file.history.map(({ at, status: entered }) => ({ at, status: entered }))
  }
}

// biome-ignore lint/suspicious/noExplicitAny: a consumer takes what it gets
function messageOf(messageId: string, body: any, receivedAt: number): CheckedMessage {
  const { data, id: eventId, subject } = body
  const { fileId, path } = data
  const contentType = 'application/cloudevents+json'
  return { messageId, contentType, receivedAt, fileId, eventId, subject, path, told: toldOf(data) }
}
