/** Collects what `invariants.ts` judges from an embedded installation: its API, its store, its journal. */
import { createReadStream } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import type { ServerRecord } from '../../domain/server.ts'
import { filesystemStore } from '../../drivers/store/filesystem.ts'
import { keyOf } from '../../drivers/store/filesystem-path.ts'
import { filesBelow, messageOf, recordOf, sha256, sourceTree, storeOf } from './checker.ts'
import { forgotten, stillOpen } from './held.ts'
import {
  type CheckedMessage,
  type Content,
  judge,
  type Rules,
  type Snapshot,
  type Source,
  type Verdict
} from './invariants.ts'
import { leftAside, leftoverFiles } from './leftovers.ts'
import type { Longshore } from './longshore.ts'
import type { S3Server } from './minio.ts'
import type { Json } from './rest.ts'

export interface EmbeddedCheckOptions {
  longshore: Longshore
  /** The folder of its one server. */
  root: string
  /** Absent: the file-system store below its data folder. */
  s3?: { minio: S3Server; bucket: string }
  /** What must be seen in no output and no answer. */
  canaries: string[]
  rules?: Rules
  /** What paths held that are not on the server any more. */
  past?: ReadonlyMap<string, Content[]>
  /** What a consumer received; absent: the journal is all that there is. */
  messages?: CheckedMessage[]
}

export async function checkEmbedded(options: EmbeddedCheckOptions): Promise<Verdict & { files: number }> {
  const { longshore, root, s3, canaries, rules = { end: 'notified' }, past = new Map() } = options
  const { api, dataDir } = longshore
  const servers = await api.get('/servers')
  const views: Json[] = []
  for (const { id } of await api.files()) views.push(await api.get(`/files/${id}`))
  const records = views.map(recordOf)
  const serverId = servers.items[0].id as string
  const sources: Source[] = [...(await sourceTree(root))].map(([path, content]) => {
    return { serverId, path, contents: [content], isThere: true, isTaken: true }
  })
  for (const [path, contents] of past) sources.push({ serverId, path, contents, isThere: false, isTaken: true })
  const messages = options.messages ?? (await journalOf(dataDir)).map(lineOf)
  const snapshot: Snapshot = {
    sources,
    records,
    ...(s3 ? await storeOf(s3, records) : await folderOf(join(dataDir, 'objects'))),
    leftovers: [
      ...forgotten({ servers: await serversOf(dataDir), files: await documentsOf(dataDir, 'files') }, Date.now()),
      ...(await stillOpen(root, () => serversOf(dataDir))),
      ...(await leftoverFiles(longshore.folders)),
      ...leftAside(await filesBelow(root)),
      ...longshore.misconduct
    ],
    messages,
    texts: {
      'the output of the process': longshore.output(),
      'GET /servers': JSON.stringify(servers),
      'GET /files/:id': JSON.stringify(views),
      'the messages': JSON.stringify(messages)
    },
    secrets: [...canaries, ...Object.values(longshore.keys)]
  }
  return { ...judge(snapshot, rules), files: sources.length }
}

/** A line of the journal is the event alone; nobody says when it was read. */
function lineOf(event: Json): CheckedMessage {
  return messageOf({ messageId: event.id, contentType: 'application/cloudevents+json', receivedAt: null, event })
}

/** Every whole line: one that a crash tore is not a message. */
export function journalOf(dataDir: string): Promise<Json[]> {
  return linesOf(join(dataDir, 'notifications.ndjson'))
}

function serversOf(dataDir: string): Promise<ServerRecord[]> {
  return documentsOf(dataDir, 'servers')
}

/** Of a collection, as its file has them now: the last line of each counts. */
async function documentsOf<T>(dataDir: string, name: string): Promise<T[]> {
  const documents = new Map<string, T>()
  for (const line of await linesOf(join(dataDir, `${name}.db`))) {
    if (line.$$deleted) documents.delete(line._id)
    else if (line._id) documents.set(line._id, line)
  }
  return [...documents.values()]
}

/** Without those that cannot be read. */
async function linesOf(path: string): Promise<Json[]> {
  const lines = (await readFile(path, 'utf8')).split('\n').filter(Boolean)
  return lines.flatMap((line) => {
    try {
      return [JSON.parse(line)]
    } catch {
      return []
    }
  })
}

async function folderOf(folder: string): Promise<Pick<Snapshot, 'objects' | 'uploads'>> {
  const bucket = 'longshore'
  const root = join(folder, bucket)
  const objects: Snapshot['objects'] = new Map()
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    const place = relative(root, path)
    if (!entry.isFile() || place.startsWith('.longshore')) continue
    objects.set(keyOf(place), { size: (await stat(path)).size, sha256: await sha256(createReadStream(path)) })
  }
  const store = filesystemStore({ folder, bucket })
  const uploads = await store.listStaleUploads(Date.now() + 60_000)
  await store.close()
  return { objects, uploads }
}
