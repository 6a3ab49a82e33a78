/** The stored bytes of a file: a redirect to the store where it signs addresses, else a stream. */
import type { IncomingMessage } from 'node:http'
import { pipeline, type Readable, Transform } from 'node:stream'
import type { ServiceSchema } from 'moleculer'
import { contentDisposition } from '../domain/content-disposition.ts'
import { IngestError } from '../domain/errors.ts'
import type { FileRecord, ObjectInfo } from '../domain/file-record.ts'
import type { ObjectStore, StoredObject } from '../drivers/store/store.ts'
import { problemOf } from './problem.ts'
import { bytesAnswer, type WantedBytes } from './range.ts'
import { choice, onlyQuery, type RestContext } from './request.ts'

export const contentAliases = {
  'GET files/:id/content': 'api.getContent',
  'HEAD files/:id/content': 'api.headContent'
}

/** How long a signed address works: long enough to begin a download. */
const SIGNED_SECONDS = 300

/** The headers of a request that say which bytes it wants. */
export function wantedOf({ headers }: IncomingMessage): WantedBytes {
  const wanted = { range: headers.range, ifRange: headers['if-range'], ifNoneMatch: headers['if-none-match'] }
  return Object.fromEntries(Object.entries(wanted).filter(([, value]) => typeof value === 'string'))
}

export const contentActions: NonNullable<ServiceSchema['actions']> = {
  getContent: {
    role: 'viewer',
    timeout: 0,
    async handler(ctx: RestContext) {
      onlyQuery(ctx, ['redirect'])
      const mayRedirect = choice(ctx, 'redirect', ['true', 'false']) !== 'false'
      const { file, object } = await storedObject(ctx)
      const disposition = contentDisposition(file.filename)
      const request = { key: object.key, disposition, expiresSeconds: SIGNED_SECONDS }
      const signed = mayRedirect ? await ctx.call<string | null, object>('storage.presign', request) : null
      if (signed === null) return stream(ctx, this.store, object, disposition)
      ctx.meta.$statusCode = 302
      ctx.meta.$location = signed
      // The address is a secret for as long as it works.
      ctx.meta.$responseHeaders = { 'Cache-Control': 'no-store' }
    }
  },

  /** Answered here: an address that is signed for GET answers nothing else. */
  headContent: {
    role: 'viewer',
    async handler(ctx: RestContext) {
      onlyQuery(ctx, ['redirect'])
      const { file, object } = await storedObject(ctx)
      ctx.meta.$responseHeaders = {
        ...headersOf(object, contentDisposition(file.filename)),
        'Content-Type': 'application/octet-stream',
        'Content-Length': String(object.size)
      }
      return ''
    }
  }
}

/** The record and its object, when the store still has what was recorded. NOT_FOUND, CONFLICT, STORE_NO_SUCH_OBJECT. */
async function storedObject(ctx: RestContext): Promise<{ file: FileRecord; object: ObjectInfo }> {
  const file = await ctx.call<FileRecord, object>('files.get', { id: ctx.params.params.id })
  const { object } = file
  if (!object) throw new IngestError('CONFLICT', `a file that is ${file.status} has no stored bytes`)
  const there = await ctx.call<StoredObject | null, object>('storage.stat', { key: object.key })
  const mend = `POST /api/v1/files/${file._id}/refetch copies it again`
  if (!there) throw new IngestError('STORE_NO_SUCH_OBJECT', `the object is no longer in the store; ${mend}`)
  const sum = object.checksum.algorithm === 'crc32' ? object.checksum.value : object.crc32
  const isOther = there.sizeBytes !== object.size || (there.crc32 !== null && sum && there.crc32 !== sum)
  if (isOther) throw new IngestError('CONFLICT', `the store holds other bytes than were stored; ${mend}`)
  // A store may give the same bytes another mark, after a restore for instance.
  return { file, object: { ...object, etag: there.etag } }
}

function headersOf(object: ObjectInfo, disposition: string): Record<string, string> {
  return {
    'Accept-Ranges': 'bytes',
    'Cache-Control': 'private, no-cache',
    'Content-Disposition': disposition,
    ETag: `"${object.etag}"`,
    'X-Content-Type-Options': 'nosniff'
  }
}

async function stream(ctx: RestContext, store: ObjectStore, object: ObjectInfo, disposition: string) {
  const answer = bytesAnswer(ctx.meta.wanted ?? {}, object.size, `"${object.etag}"`)
  ctx.meta.$statusCode = answer.status
  if (answer.status === 416) {
    ctx.meta.$responseHeaders = {
      'Content-Range': `bytes */${object.size}`,
      'Content-Type': 'application/problem+json; charset=utf-8'
    }
    const message = `the object has ${object.size} bytes; the range asks for none of them`
    return problemOf({ code: 416, type: 'RANGE_NOT_SATISFIABLE', message })
  }
  const headers = headersOf(object, disposition)
  ctx.meta.$responseHeaders = headers
  if (answer.status === 304) return null
  const { range = { start: 0, end: object.size - 1 } } = answer
  const length = range.end - range.start + 1
  headers['Content-Length'] = String(length)
  if (answer.status === 206) headers['Content-Range'] = `bytes ${range.start}-${range.end}/${object.size}`
  const bytes = await store.read(object.key, answer.range ? { range } : {})
  return exactly(bytes as Readable, length)
}

/** A reader that was told a length would wait for ever for the rest of a stream that ends early: it fails instead. */
export function exactly(bytes: Readable, length: number): Transform {
  let left = length
  const counted = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      left -= chunk.length
      done(null, chunk)
    },
    flush(done) {
      done(left === 0 ? null : new IngestError('STORE_REJECTED', `the object ended ${left} bytes early`))
    }
  })
  return pipeline(bytes, counted, () => undefined)
}
