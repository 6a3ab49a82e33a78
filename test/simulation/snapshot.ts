/** What the checker judges, of a simulated world. */
import type { FileRecord, ObjectInfo } from '../../domain/file-record.ts'
import type { CheckedMessage, CheckedRecord, Snapshot, Source } from '../support/invariants.ts'
import type { Backends } from './node.ts'
import type { SourceServer } from './sources.ts'
import { sha256Of } from './store.ts'

export interface Partner {
  source: SourceServer
  /** An operator removed the server. */
  isRemoved: boolean
  /** Whether the policy takes a file of this name. */
  takes(path: string): boolean
}

export function snapshotOf({ database, store, queue, world }: Backends, partners: Partner[]): Snapshot {
  const records = [...database.collection<FileRecord>('files').documents.values()]
  return {
    sources: partners.flatMap(sourcesOf),
    records: records.map(recordOf),
    objects: new Map(
      [...store.objects].map(([key, { sizeBytes, content }]) => [key, { size: sizeBytes, sha256: sha256Of(content) }])
    ),
    uploads: [...store.uploads].map(([uploadId, { key }]) => ({ key, uploadId })),
    leftovers: [],
    messages: queue.delivered.map(({ message, at }) => messageOf(message.messageId, message.body, at)),
    texts: { 'the log': world.log.join('\n'), 'the messages': JSON.stringify(queue.delivered) },
    secrets: partners.map(({ source }) => source.password)
  }
}

function sourcesOf({ source, isRemoved, takes }: Partner): Source[] {
  return [...source.history].map(([path, held]) => ({
    serverId: source.id,
    path,
    contents: held.map(({ size, sha256, mtime }) => ({ size, sha256, mtime })),
    isThere: source.files.has(path),
    isTaken: !isRemoved && takes(path)
  }))
}

function toldOf({ bucket, key, etag, size, checksum }: Omit<ObjectInfo, 'storedAt'>): string {
  return JSON.stringify([bucket, key, etag, size, checksum.value])
}

function recordOf(file: FileRecord): CheckedRecord {
  const { _id: id, serverId, serverName, path, version, size, mtime, status, object, historyDropped } = file
  return {
    ...{ id, serverId, serverName, path, version, size, mtime, status, historyDropped },
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
