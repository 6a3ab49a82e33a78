import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { crc32Base64ToHex, crc32HexToBase64 } from '../../domain/crc32.ts'
import { errorType, IngestError } from '../../domain/errors.ts'
import { ensureBucket, presign } from './s3-bucket.ts'
import { answerError } from './s3-errors.ts'
import { partBody, partHeaders } from './s3-part-body.ts'
import { encodeKey, S3Client } from './s3-request.ts'
import {
  bareEtag,
  completeBody,
  type ListedUpload,
  metadataHeaders,
  parseCompleted,
  parseMetadata,
  parseParts,
  parseUploads
} from './s3-xml.ts'
import type { CompleteOptions, Condition, ObjectStore, StoredObject, StoredPart } from './store.ts'

export interface S3Options {
  endpoint: string
  accessKey: string
  secretKey: string
  bucket: string
  region?: string
  /** Where consumers reach the store; the endpoint by default. */
  publicUrl?: string
  /** How long the store may be silent before STORE_UNAVAILABLE; 30,000 by default. */
  silenceMs?: number
  /** How long a socket is kept for the next request; 10,000 by default. */
  idleMs?: number
}

const MiB = 1024 * 1024
/** https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html */
const limits = { minPartBytes: 5 * MiB, maxPartBytes: 5120 * MiB, maxParts: 10_000, maxObjectBytes: 5 * 1024 ** 4 }
const maxStaleUploads = 1000

/**
 * MinIO or any S3 with conditional writes and full-object CRC-32. minio-js makes the bucket and presigns; what moves
 * bytes or must not hide an error is sent by `S3Client`.
 */
export function s3Store(options: S3Options): ObjectStore {
  const { bucket, endpoint, region = 'us-east-1' } = options
  const publicUrl = (options.publicUrl ?? endpoint).replace(/\/+$/, '')
  const client = new S3Client({ ...options, region })
  /** MinIO knows a condition on the beginning of an upload; S3 itself has it for the end alone. */
  let beginsInAnyCase = false

  return {
    bucket,
    limits,

    ensureReady: () => ensureBucket({ ...options, region }),

    head,

    async put(key, body, { metadata, crc32, condition, signal }) {
      const headers = {
        'content-type': 'application/octet-stream',
        'x-amz-checksum-crc32': crc32HexToBase64(crc32),
        ...metadataHeaders(metadata),
        ...conditionHeaders(condition)
      }
      const answer = await client
        .send({ method: 'PUT', key, headers, body, signal })
        .catch((error) => failWrite(error, condition))
      const answered = crc32Of(answer.headers)
      try {
        requireSame(crc32, answered, key)
      } catch (error) {
        await removeWrong(key)
        throw error
      }
      return { key, sizeBytes: body.length, etag: bareEtag(answer.headers.etag), crc32: answered, metadata }
    },

    async createUpload(key, metadata, condition) {
      const headers = {
        'content-type': 'application/octet-stream',
        'x-amz-checksum-algorithm': 'CRC32',
        'x-amz-checksum-type': 'FULL_OBJECT',
        ...metadataHeaders(metadata)
      }
      const begin = (asked: Condition) => {
        const call = { method: 'POST' as const, key, query: { uploads: '' } }
        return client.send({ ...call, headers: { ...headers, ...conditionHeaders(asked) } })
      }
      const { body } = await begin(beginsInAnyCase ? null : condition).catch((error) => {
        if (!isNotImplemented(error)) return failWrite(error, condition)
        beginsInAnyCase = true
        return begin(null)
      })
      const uploadId = /<UploadId>([^<]+)<\/UploadId>/.exec(body)?.[1]
      if (!uploadId) throw new IngestError('STORE_REJECTED', 'store: an upload was begun but not named')
      return uploadId
    },

    async uploadPart(key, uploadId, part) {
      const body = partBody(part)
      const query = { partNumber: String(part.number), uploadId }
      const { signal } = part
      const call = { method: 'PUT' as const, key, query, headers: partHeaders(part), body, signal }
      const { headers } = await client.send(call).catch(async (error) => {
        throw await reasonOfReset(key, uploadId, error)
      })
      const crc32 = body.crc32()
      requireSame(crc32, crc32Of(headers), key)
      return { number: part.number, sizeBytes: part.sizeBytes, etag: bareEtag(headers.etag), crc32 }
    },

    listParts,

    async listUploads(key) {
      const found = await uploadsBelow(key, (upload) => upload.key === key, Number.POSITIVE_INFINITY)
      return found.map(({ uploadId, initiatedAt }) => ({ uploadId, initiatedAt }))
    },

    // MinIO lists a bucket's uploads without a key only from the memory of the node that began them.
    async listStaleUploads(initiatedBefore) {
      return uploadsBelow('', (upload) => upload.initiatedAt < initiatedBefore, maxStaleUploads)
    },

    completeUpload,

    async abortUpload(key, uploadId) {
      try {
        await client.send({ method: 'DELETE', key, query: { uploadId } })
      } catch (error) {
        if (errorType(error) !== 'STORE_NO_SUCH_UPLOAD') throw error
      }
    },

    async read(key, { range, signal } = {}) {
      const headers: Record<string, string> = range ? { range: `bytes=${range.start}-${range.end}` } : {}
      const { bytes, close } = await client.open({ method: 'GET', key, headers, signal })
      const stream = Readable.from(bytes, { objectMode: false, highWaterMark: MiB })
      // A stream that is destroyed before its first read never starts `bytes`, which would keep the socket.
      return stream.once('close', close)
    },

    remove,

    url: (key) => `${publicUrl}/${bucket}/${encodeKey(key)}`,

    presignedUrl: (key, wanted) => presign({ ...options, region, endpoint: publicUrl }, key, wanted),

    async close() {
      client.close()
    }
  }

  async function head(key: string, signal?: AbortSignal): Promise<StoredObject | null> {
    try {
      const { headers } = await client.send({
        method: 'HEAD',
        key,
        headers: { 'x-amz-checksum-mode': 'ENABLED' },
        signal
      })
      return {
        key,
        sizeBytes: Number(headers['content-length']),
        etag: bareEtag(headers.etag),
        crc32: crc32Of(headers),
        metadata: parseMetadata(headers)
      }
    } catch (error) {
      if ((error as IngestError).data?.status === 404) return null
      throw error
    }
  }

  async function listParts(key: string, uploadId: string, signal?: AbortSignal): Promise<StoredPart[]> {
    const parts: StoredPart[] = []
    let next: string | null = null
    do {
      const query: Record<string, string> = { uploadId, ...(next === null ? {} : { 'part-number-marker': next }) }
      const page = parseParts((await client.send({ method: 'GET', key, query, signal })).body)
      parts.push(...page.parts)
      next = page.next
    } while (next !== null)
    return parts
  }

  /**
   * A store that refuses a part before it read it all may cut the line (versitygw does), and then the answer is lost
   * with the bytes on the way. Asking about the upload brings the reason out.
   */
  async function reasonOfReset(key: string, uploadId: string, error: unknown): Promise<unknown> {
    const { code } = (error as IngestError).data ?? {}
    if (code !== 'EPIPE' && code !== 'ECONNRESET') return error
    return listParts(key, uploadId).then(
      () => error,
      (reason) => (errorType(reason) === 'STORE_UNAVAILABLE' ? error : reason)
    )
  }

  async function uploadsBelow(
    prefix: string,
    isWanted: (upload: ListedUpload) => boolean,
    most: number
  ): Promise<ListedUpload[]> {
    const found: ListedUpload[] = []
    let marker: Record<string, string> = {}
    for (;;) {
      const query = { uploads: '', 'encoding-type': 'url', ...(prefix && { prefix }), ...marker }
      const { uploads, next } = parseUploads((await client.send({ method: 'GET', query })).body)
      found.push(...uploads.filter(isWanted))
      if (found.length >= most) return found.slice(0, most)
      if (next === null) return found
      marker = { 'key-marker': next.key, 'upload-id-marker': next.uploadId }
    }
  }

  async function completeUpload(key: string, uploadId: string, wanted: CompleteOptions): Promise<StoredObject> {
    const { parts, sizeBytes, crc32, condition, signal } = wanted
    let answer: ReturnType<typeof parseCompleted>
    try {
      const reply = await client.send({
        method: 'POST',
        key,
        query: { uploadId },
        headers: {
          'content-type': 'application/xml',
          'x-amz-checksum-crc32': crc32HexToBase64(crc32),
          'x-amz-checksum-type': 'FULL_OBJECT',
          'x-amz-mp-object-size': String(sizeBytes),
          ...conditionHeaders(condition)
        },
        body: completeBody(parts),
        signal
      })
      answer = parseCompleted(reply.body)
      if (answer.isError) throw answerError(500, reply.body, `POST ${key} (uploadId)`)
    } catch (error) {
      const done = await completedBefore(key, uploadId, wanted, error)
      if (done !== null) return done
      return failWrite(error, condition)
    }
    const stored = await head(key, signal)
    const isOurs = stored !== null && stored.etag === answer.etag
    try {
      requireSame(crc32, answer.crc32, key)
      if (isOurs) requireSame(crc32, stored.crc32, key)
      if (stored !== null && stored.sizeBytes === sizeBytes && (isOurs || stored.crc32 === crc32)) {
        return { ...stored, crc32: stored.crc32 ?? answer.crc32 }
      }
      // Somebody has replaced it since; the answer itself proved ours.
      if (!isOurs && answer.crc32 !== null) return { key, sizeBytes, etag: answer.etag, crc32, metadata: {} }
      const seen = stored === null ? 'is not there' : `has ${stored.sizeBytes} of ${sizeBytes} bytes`
      throw new IngestError('CHECKSUM_MISMATCH', `store: ${key} ${seen} after its completion`)
    } catch (error) {
      if (isOurs) await removeWrong(key)
      throw error
    }
  }

  /** A store that takes no checksum with the request shows a wrong object; nobody may come to trust it. */
  async function removeWrong(key: string): Promise<void> {
    await remove(key).catch(() => {})
  }

  async function remove(key: string): Promise<void> {
    try {
      await client.send({ method: 'DELETE', key })
    } catch (error) {
      if (errorType(error) !== 'STORE_NO_SUCH_OBJECT') throw error
    }
  }

  /**
   * Whether an earlier try had completed the upload though its answer was lost: the upload is gone and the object is
   * what we wanted. Without the first, a look at the object would also find an equal one of an earlier version.
   */
  async function completedBefore(
    key: string,
    uploadId: string,
    wanted: CompleteOptions,
    error: unknown
  ): Promise<StoredObject | null> {
    const type = errorType(error)
    if (!['STORE_NO_SUCH_UPLOAD', 'STORE_PRECONDITION', 'STORE_UNAVAILABLE'].includes(type)) return null
    try {
      if (type !== 'STORE_NO_SUCH_UPLOAD') {
        const isGone = await listParts(key, uploadId).then(
          () => false,
          (failure) => errorType(failure) === 'STORE_NO_SUCH_UPLOAD'
        )
        if (!isGone) return null
      }
      const stored = await head(key, wanted.signal)
      if (stored?.sizeBytes !== wanted.sizeBytes) return null
      const isSame = stored.crc32 === null ? stored.etag === multipartEtag(wanted.parts) : stored.crc32 === wanted.crc32
      return isSame ? stored : null
    } catch {
      return null
    }
  }
}

function conditionHeaders(condition: Condition): Record<string, string> {
  if (condition === null) return {}
  return 'ifMatch' in condition ? { 'if-match': `"${condition.ifMatch}"` } : { 'if-none-match': '*' }
}

/** If-Match of an object that is gone answers 404; to us that is a condition that does not hold. */
function failWrite(error: unknown, condition: Condition): never {
  if (condition !== null && errorType(error) === 'STORE_NO_SUCH_OBJECT') {
    throw new IngestError('STORE_PRECONDITION', (error as Error).message, { data: (error as IngestError).data })
  }
  throw error
}

function isNotImplemented(error: unknown): boolean {
  return /^X?NotImplemented$/.test(String((error as IngestError).data?.code))
}

function crc32Of(headers: Record<string, string | string[] | undefined>): string | null {
  return crc32Base64ToHex(String(headers['x-amz-checksum-crc32'] ?? ''))
}

function requireSame(ours: string, theirs: string | null, key: string): void {
  if (theirs === null || theirs === ours) return
  throw new IngestError('CHECKSUM_MISMATCH', `store: ${key} has CRC-32 ${theirs} there and ${ours} here`)
}

/** How S3 makes the etag of an object of parts: the MD5 of the parts' MD5s, and their number. */
function multipartEtag(parts: StoredPart[]): string {
  const ordered = [...parts].sort((a, b) => a.number - b.number)
  const digests = Buffer.concat(ordered.map(({ etag }) => Buffer.from(etag, 'hex')))
  return `${createHash('md5').update(digests).digest('hex')}-${parts.length}`
}
