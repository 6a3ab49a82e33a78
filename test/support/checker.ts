/**
 * What must be true after every run, whatever happened during it: the SFTP tree on disk, the records, the store and
 * everything that a consumer received are held against each other.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { Client } from 'minio'
import type { FileStatus } from '../../domain/file.ts'
import { SMALL_FILE_BYTES } from '../../domain/ranges.ts'
import { s3Store } from '../../drivers/store/s3.ts'
import type { Consumer, Received } from './consumer.ts'
import type { Backends, Longshore } from './longshore.ts'
import type { Json } from './rest.ts'
import { follows } from './transitions.ts'

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
  longshore: Longshore
  consumer: Consumer
}

export async function checkEverything(options: CheckOptions): Promise<CheckReport> {
  const { backends, longshore, consumer } = options
  const problems: string[] = []
  const sources = await sourceTree(backends.root)
  const records = await longshore.api.files()
  await checkRecords(longshore, sources, records, problems)
  await checkStore(backends, sources, records, problems)
  const duplicates = checkMessages(records, consumer.messages, problems)
  await checkSecrets(options, problems)
  let bytes = 0
  for (const { size } of sources.values()) bytes += size
  return { problems, files: sources.size, bytes, messages: consumer.messages.length, duplicates }
}

interface Source {
  size: number
  sha256: string
}

async function sourceTree(root: string): Promise<Map<string, Source>> {
  const sources = new Map<string, Source>()
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = `${entry.parentPath}/${entry.name}`
    sources.set(path, { size: (await stat(path)).size, sha256: await sha256(createReadStream(path)) })
  }
  return sources
}

async function sha256(bytes: AsyncIterable<unknown>): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of bytes) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

const shown = (path: string) => JSON.stringify(path)

async function checkRecords(
  { api }: Longshore,
  sources: Map<string, Source>,
  records: Json[],
  problems: string[]
): Promise<void> {
  const byPath = Map.groupBy(records, ({ path }) => path as string)
  for (const path of sources.keys()) if (!byPath.has(path)) problems.push(`${shown(path)} has no record`)
  for (const [path, [first, ...more]] of byPath) {
    if (more.length > 0) problems.push(`${shown(path)} has ${more.length + 1} records`)
    const source = sources.get(path)
    if (!source) problems.push(`${shown(path)} has a record and is not on the server`)
    else if (first.size !== source.size) problems.push(`${shown(path)} has size ${first.size}, not ${source.size}`)
    if (first.status !== 'notified') problems.push(`${shown(path)} is ${first.status}: ${first.error?.message ?? ''}`)
  }
  for (const { id, path } of records) {
    const { history, status, historyDropped } = await api.get(`/files/${id}`)
    if (historyDropped > 0) problems.push(`${shown(path)}: ${historyDropped} entries of its history were dropped`)
    let before: FileStatus | 'null' = 'null'
    let at = ''
    for (const entry of history) {
      if (!follows[before].includes(entry.status))
        problems.push(`${shown(path)} went from ${before} to ${entry.status}`)
      if (entry.at < at) problems.push(`${shown(path)}: its history goes back in time at ${entry.at}`)
      before = entry.status
      at = entry.at
    }
    if (before !== status) problems.push(`${shown(path)} is ${status}, and its history ends in ${before}`)
  }
}

async function checkStore(
  { minio, bucket }: Backends,
  sources: Map<string, Source>,
  records: Json[],
  problems: string[]
): Promise<void> {
  const { endpoint, accessKey, secretKey } = minio
  const store = s3Store({ endpoint, accessKey, secretKey, bucket })
  try {
    const orphans = new Set(await keysOf({ endpoint, accessKey, secretKey, bucket }))
    for (const { path, object } of records) {
      if (!object) {
        problems.push(`${shown(path)} has no object`)
        continue
      }
      if (!orphans.delete(object.key)) problems.push(`${shown(path)}: no object of its own under ${shown(object.key)}`)
      const sum = await store.read(object.key).then(sha256, (error: Error) => error.message)
      const source = sources.get(path)
      if (source && sum !== source.sha256) problems.push(`${shown(path)}: the object is not the source (${sum})`)
      // MinIO finds uploads of before its restart only by their key.
      const uploads = object.size > SMALL_FILE_BYTES ? await store.listUploads(object.key) : []
      if (uploads.length > 0) problems.push(`${shown(path)}: ${uploads.length} multipart uploads were left`)
    }
    for (const key of orphans) problems.push(`the object ${shown(key)} belongs to no record`)
    const left = await store.listStaleUploads(Date.now() + 60_000)
    for (const { key } of left) problems.push(`a multipart upload of ${shown(key)} was left`)
  } finally {
    await store.close()
  }
}

async function keysOf(options: { endpoint: string; accessKey: string; secretKey: string; bucket: string }) {
  const { hostname, port } = new URL(options.endpoint)
  const { accessKey, secretKey, bucket } = options
  const client = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey })
  const keys: string[] = []
  for await (const { name } of client.listObjectsV2(bucket, '', true)) keys.push(name)
  return keys
}

/** The number of repeats. */
function checkMessages(records: Json[], messages: readonly Received[], problems: string[]): number {
  const byId = new Map(records.map((record) => [record.id as string, record]))
  const ids = new Map<string, string>()
  let duplicates = 0
  for (const { messageId, contentType, event } of messages) {
    const record = byId.get(event.data.fileId)
    const path = shown(event.subject)
    if (!record) {
      problems.push(`a message for ${path}, which has no record`)
      continue
    }
    const { data } = event
    if (contentType !== 'application/cloudevents+json') problems.push(`${path}: its message is ${contentType}`)
    if (messageId !== event.id) problems.push(`${path}: messageId ${messageId} and event id ${event.id} differ`)
    if (event.subject !== record.path || data.path !== record.path)
      problems.push(`${path}: the message has another path`)
    const told = [data.bucket, data.key, data.etag, data.size, data.checksum?.value]
    const { object } = record
    const stored = [object?.bucket, object?.key, object?.etag, object?.size, object?.checksum.value]
    if (JSON.stringify(told) !== JSON.stringify(stored)) problems.push(`${path}: the message tells of another object`)
    const known = ids.get(record.id)
    if (known === undefined) ids.set(record.id, messageId)
    else duplicates++
    if (known !== undefined && known !== messageId) problems.push(`${path}: messages with ids ${known}, ${messageId}`)
  }
  for (const { id, path, notification } of records) {
    if (!ids.has(id)) problems.push(`${shown(path)} was never announced`)
    else if (notification?.messageId !== ids.get(id)) problems.push(`${shown(path)}: the record has another message id`)
  }
  if (new Set(ids.values()).size !== ids.size) problems.push('two files were announced under one id')
  return duplicates
}

async function checkSecrets({ backends, longshore, consumer }: CheckOptions, problems: string[]): Promise<void> {
  const places: Record<string, string> = {
    'the output of the processes': longshore.output(),
    'GET /servers': JSON.stringify(await longshore.api.get('/servers')),
    'the messages': JSON.stringify(consumer.messages.map(({ event }) => event))
  }
  const canaries = [...backends.canaries, ...Object.values(longshore.keys)]
  for (const [place, text] of Object.entries(places)) {
    if (canaries.some((canary) => text.includes(canary))) problems.push(`a secret is in ${place}`)
  }
}
