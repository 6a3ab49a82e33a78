/** Collects what `invariants.ts` judges from real backends: the SFTP tree on disk, the API, the store, a consumer. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { Client } from 'minio'
import mongoose from 'mongoose'
import { s3Store } from '../../drivers/store/s3.ts'
import type { Consumer } from './consumer.ts'
import { forgotten, type Kept, stillOpen } from './held.ts'
import {
  type CheckedMessage,
  type CheckedRecord,
  type Content,
  judge,
  type Rules,
  type Snapshot,
  type Source
} from './invariants.ts'
import { leftAside, leftoverFiles } from './leftovers.ts'
import type { Backends, Longshore } from './longshore.ts'
import type { Json } from './rest.ts'

export interface CheckReport {
  /** Each a sentence; empty when all is well. */
  problems: string[]
  files: number
  bytes: number
  messages: number
  /** Messages beyond the first of their file; permitted by at-least-once delivery. */
  duplicates: number
}

export interface CheckOptions {
  backends: Backends
  longshore: Pick<Longshore, 'api' | 'output' | 'folders' | 'misconduct'> & { keys: Record<string, string> }
  consumer: Consumer
  /** By default every file is expected to be `notified`. */
  rules?: Rules
  /** What a path held before, oldest first, where files changed or went during the run. */
  past?: ReadonlyMap<string, Content[]>
  /** Whether the policy takes a path; by default it takes all. */
  isTaken?: (path: string) => boolean
}

export async function checkEverything(options: CheckOptions): Promise<CheckReport> {
  const snapshot = await collect(options)
  const { problems, duplicates } = judge(snapshot, options.rules ?? { end: 'notified' })
  const there = snapshot.sources.filter(({ isThere }) => isThere)
  const bytes = there.reduce((sum, { contents }) => sum + contents.at(-1)!.size, 0)
  return { problems, files: there.length, bytes, messages: snapshot.messages.length, duplicates }
}

/** Everything that is judged, as it is now. Longshore must be running: records come from its API. */
export async function collect(options: CheckOptions): Promise<Snapshot> {
  const { backends, longshore, consumer } = options
  const { api } = longshore
  const servers = await api.get('/servers')
  const kept = await keptBy(backends)
  const views: Json[] = []
  for (const { id } of await api.files()) views.push(await api.get(`/files/${id}`))
  const records = views.map(recordOf)
  return {
    sources: await sourcesOf(options, servers.items),
    records,
    ...(await storeOf(backends, records)),
    leftovers: [
      ...forgotten(kept, Date.now()),
      ...(await stillOpen(backends.root, async () => (await keptBy(backends)).servers)),
      ...(await leftoverFiles(longshore.folders)),
      ...leftAside(await filesBelow(backends.root)),
      ...longshore.misconduct,
      ...leaksOf(backends)
    ],
    messages: consumer.messages.map(messageOf),
    texts: {
      'the output of the processes': longshore.output(),
      'GET /servers': JSON.stringify(servers),
      'GET /files/:id': JSON.stringify(views),
      'the database': JSON.stringify(kept),
      'the messages': JSON.stringify(consumer.messages.map(({ event }) => event))
    },
    secrets: [...backends.canaries, ...Object.values(longshore.keys)]
  }
}

async function sourcesOf({ backends, past, isTaken }: CheckOptions, servers: Json[]): Promise<Source[]> {
  const there = await sourceTree(backends.root)
  const paths = new Set([...there.keys(), ...(past?.keys() ?? [])])
  return [...paths].flatMap((path) => {
    const now = there.get(path)
    const contents = [...(past?.get(path) ?? []), ...(now ? [now] : [])]
    const source = { path, contents, isThere: now !== undefined, isTaken: isTaken?.(path) ?? true }
    const owners = servers.filter(({ roots }) =>
      roots.some((root: string) => root === '/' || path.startsWith(`${root}/`))
    )
    return owners.map(({ id }) => ({ ...source, serverId: id as string }))
  })
}

/** Every file below a folder, by its path. */
export async function sourceTree(root: string): Promise<Map<string, Content>> {
  const sources = new Map<string, Content>()
  for (const path of await filesBelow(root)) {
    const { size, mtimeMs } = await stat(path)
    // SFTP knows seconds only.
    const mtime = Math.floor(mtimeMs / 1000) * 1000
    sources.set(path, { size, mtime, sha256: await sha256(createReadStream(path)) })
  }
  return sources
}

export async function filesBelow(root: string): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true })
  return entries.filter((entry) => entry.isFile()).map(({ parentPath, name }) => `${parentPath}/${name}`)
}

/** Hex. */
export async function sha256(bytes: AsyncIterable<unknown>): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of bytes) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

function toldOf({ bucket, key, etag, size, checksum }: Json): string {
  return JSON.stringify([bucket, key, etag, size, checksum?.value])
}

/** What is judged of a record, from the API's view of it. */
export function recordOf(view: Json): CheckedRecord {
  const { id, serverId, serverName, path, version, size, status, object, historyDropped } = view
  return {
    ...{ id, serverId, serverName, path, version, size, status, historyDropped },
    mtime: Date.parse(view.mtime),
    why: view.error?.message ?? view.reason,
    object: object && {
      ...{ key: object.key, size: object.size, told: toldOf(object) },
      storedAt: Date.parse(object.storedAt)
    },
    messageId: view.notification?.messageId ?? null,
    history: view.history.map((entry: Json) => ({ at: Date.parse(entry.at), status: entry.status }))
  }
}

type Envelope = Pick<CheckedMessage, 'messageId' | 'contentType' | 'receivedAt'>

export function messageOf({ messageId, contentType, event, receivedAt }: Envelope & { event: Json }): CheckedMessage {
  const { fileId, path } = event.data
  const { id: eventId, subject } = event
  return { messageId, contentType, receivedAt, fileId, eventId, subject, path, told: toldOf(event.data) }
}

/** Every object, and every multipart upload that is under way. */
export async function storeOf({ minio, bucket }: Pick<Backends, 'minio' | 'bucket'>, records: CheckedRecord[]) {
  const { endpoint, accessKey, secretKey } = minio
  const store = s3Store({ endpoint, accessKey, secretKey, bucket })
  const objects: Snapshot['objects'] = new Map()
  const uploads = new Map<string, { key: string; uploadId: string }>()
  try {
    for (const { name, size } of await listed({ endpoint, accessKey, secretKey, bucket })) {
      objects.set(name, { size, sha256: await store.read(name).then(sha256) })
    }
    for (const { key, uploadId } of await store.listStaleUploads(Date.now() + 60_000))
      uploads.set(uploadId, { key, uploadId })
    // MinIO finds uploads of before its restart only by their key. A file that is small now may have been large.
    for (const { object } of records) {
      if (!object) continue
      const { key } = object
      for (const { uploadId } of await store.listUploads(key)) uploads.set(uploadId, { key, uploadId })
    }
  } finally {
    await store.close()
  }
  return { objects, uploads: [...uploads.values()] }
}

async function listed(options: { endpoint: string; accessKey: string; secretKey: string; bucket: string }) {
  const { hostname, port } = new URL(options.endpoint)
  const { accessKey, secretKey, bucket } = options
  const client = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey })
  const found: { name: string; size: number }[] = []
  for await (const { name, size } of client.listObjectsV2(bucket, '', true)) found.push({ name, size })
  return found
}

/** Servers and files as the database has them: leases and slots are in no answer of the API. */
async function keptBy({ mongo }: Backends): Promise<Kept> {
  const connection = await mongoose.createConnection(mongo.url).asPromise()
  try {
    const all = (name: string) => connection.collection(name).find().toArray() as Promise<unknown>
    return { servers: (await all('servers')) as Kept['servers'], files: (await all('files')) as Kept['files'] }
  } finally {
    await connection.close()
  }
}

function leaksOf({ tap }: Backends): string[] {
  return tap.messages > 0 ? [...tap.leaks] : ['nothing was heard of NATS, so nobody knows what crossed it']
}
