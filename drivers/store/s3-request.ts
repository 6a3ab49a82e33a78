import http, { type ClientRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http'
import https from 'node:https'
import { IngestError } from '../../domain/errors.ts'
import { cancelled } from './blocks.ts'
import { answerError, connectionError } from './s3-errors.ts'
import { Signer } from './s3-signature.ts'

/** Runs out when the store lets no byte move for so long; rests while it is not the store that is waited for. */
export interface SilenceWatch {
  arm(): void
  rest(): void
  /** For good: write callbacks that come late arm it no more. */
  end(): void
}

/** A body that cannot be sent twice. `feed` writes exactly `contentLength` bytes and ends the request, or rejects. */
export interface StreamedBody {
  contentLength: number
  feed(request: ClientRequest, watch: SilenceWatch): Promise<void>
  /** Idempotent. Called once no more can be sent; `feed` then settles at once. */
  stop(): void
}

export interface S3Call {
  method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE'
  /** None: the call is about the bucket. */
  key?: string
  query?: Record<string, string>
  headers?: Record<string, string>
  body?: Buffer | StreamedBody
  signal?: AbortSignal
}

export interface S3Answer {
  status: number
  headers: IncomingHttpHeaders
  body: string
}

export interface S3ClientOptions {
  endpoint: string
  bucket: string
  region: string
  accessKey: string
  secretKey: string
  /** How long the store may be silent; 30,000 by default. */
  silenceMs?: number
  /** How long a socket is kept for the next request; 10,000 by default. */
  idleMs?: number
}

/** Parts of every file of a worker share these. */
const maxSockets = 64
/**
 * MinIO closes a socket that was idle for 30 s, others sooner. A conditional request that meets that moment is not sent
 * again, since it may have been done, so the socket is left before.
 */
const usualIdleMs = 10_000
/** A store that does not answer `Expect: 100-continue` is sent the body after this, as RFC 9110 10.1.1 advises. */
const continueMs = 1000
const sliceBytes = 256 * 1024
/** Longest XML that is read: a listing of 1,000 keys of 1,024 bytes, percent-encoded, fits. */
const maxAnswerBytes = 16 * 1024 * 1024

/** RFC 3986 for each segment, as S3 signs it. Rejects with STORE_REJECTED a key that is no Unicode text. */
export function encodeKey(key: string): string {
  if (!key.isWellFormed()) throw new IngestError('STORE_REJECTED', 'an object key must be Unicode text')
  return key.split('/').map(encode).join('/')
}

function encode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)
}

/**
 * Signed requests to one bucket, path style. Each failure is an IngestError: STORE_*, CHECKSUM_MISMATCH, CANCELLED, or
 * whatever a streamed body's source threw.
 */
export class S3Client {
  readonly #options: S3ClientOptions
  /** Of the endpoint: the address of the store, and where the bucket is there. */
  readonly #host: string
  readonly #address: Pick<https.RequestOptions, 'hostname' | 'port'>
  readonly #bucketPath: string
  readonly #agent: http.Agent
  readonly #transport: typeof http | typeof https
  readonly #signer: Signer

  constructor(options: S3ClientOptions) {
    this.#options = options
    const { protocol, host, hostname, port, pathname } = new URL(options.endpoint)
    this.#host = host
    this.#address = { hostname: hostname.replace(/^\[|\]$/g, ''), port }
    this.#bucketPath = `${pathname.replace(/\/+$/, '')}/${options.bucket}`
    this.#transport = protocol === 'https:' ? https : http
    this.#signer = new Signer(options)
    // Of Node's agent this ends idle sockets only.
    this.#agent = new this.#transport.Agent({ keepAlive: true, maxSockets, timeout: options.idleMs ?? usualIdleMs })
  }

  /** Sends and reads the whole answer. */
  async send(call: S3Call): Promise<S3Answer> {
    const { response, watch, release } = await this.#exchange(call)
    try {
      const body = await readAll(response, watch)
      return { status: response.statusCode!, headers: response.headers, body: body.toString() }
    } catch (cause) {
      throw this.#failure(cause, call)
    } finally {
      release()
    }
  }

  /** Sends and hands on the answer's bytes as they come. The caller has to read or destroy them. */
  async open(call: S3Call): Promise<{ headers: IncomingHttpHeaders; bytes: AsyncGenerator<Buffer>; close(): void }> {
    const exchange = await this.#exchange(call)
    const { response, watch, release } = exchange
    const failure = (cause: unknown) => this.#failure(cause, call)
    watch.rest()
    async function* bytes(): AsyncGenerator<Buffer> {
      try {
        watch.arm()
        for await (const chunk of response) {
          watch.rest()
          yield chunk
          watch.arm()
        }
      } catch (cause) {
        throw failure(cause)
      } finally {
        release()
      }
    }
    return {
      headers: response.headers,
      bytes: bytes(),
      close() {
        response.destroy()
        release()
      }
    }
  }

  close(): void {
    this.#agent.destroy()
  }

  async #exchange(call: S3Call): Promise<Exchange> {
    try {
      return await this.#attempt(call)
    } catch (error) {
      // A kept-alive socket that the store had closed meanwhile: nothing was done, unless a condition was asked
      // for, where doing it twice would answer 412 to the one who did it.
      if (!(error instanceof StaleSocket)) throw error
      const isConditional = Object.keys(call.headers ?? {}).some((name) => name.startsWith('if-'))
      if (isConditional) throw this.#failure(error.cause, call)
      return await this.#attempt(call).catch((again) => {
        throw again instanceof StaleSocket ? this.#failure(again.cause, call) : again
      })
    }
  }

  #attempt(call: S3Call): Promise<Exchange> {
    const { signal, body } = call
    const streamed = body !== undefined && !Buffer.isBuffer(body) ? body : null
    let hasBegun = false
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        streamed?.stop()
        reject(cancelled(signal))
        return
      }
      const request = this.#transport.request(this.#signed(call))
      const watch = this.#watch(request)
      const onAbort = () => request.destroy(cancelled(signal!))
      signal?.addEventListener('abort', onAbort, { once: true })
      let continueTimer: NodeJS.Timeout | undefined
      const release = () => {
        watch.end()
        clearTimeout(continueTimer)
        signal?.removeEventListener('abort', onAbort)
      }
      // Waiting for one of the agent's sockets is not the store's silence, so the watch starts with the socket.
      request.once('socket', () => watch.arm())
      request.on('error', (error: NodeJS.ErrnoException) => {
        release()
        const isStale = request.reusedSocket && ['ECONNRESET', 'EPIPE'].includes(error.code ?? '') && !hasBegun
        if (isStale) reject(new StaleSocket(error))
        else {
          streamed?.stop()
          reject(this.#failure(error, call))
        }
      })
      request.once('close', () => {
        if (hasBegun) streamed?.stop()
      })
      request.once('response', (response) => {
        watch.arm()
        hasBegun = true
        if (response.statusCode! >= 200 && response.statusCode! < 300) {
          if (request.writableEnded) resolve({ response, watch, release })
          else request.destroy(new Error('answered before the whole body was sent'))
          return
        }
        streamed?.stop()
        readAll(response, watch)
          .then((text) => reject(answerError(response.statusCode!, text.toString(), describe(call))))
          .catch((cause) => reject(this.#failure(cause, call)))
          .finally(() => {
            release()
            // Half a body was sent: the socket is of no use to anyone.
            if (!request.writableFinished) request.destroy()
          })
      })
      if (!streamed) {
        sendBuffer(request, watch, body as Buffer | undefined)
        return
      }
      const begin = () => {
        if (hasBegun) return
        hasBegun = true
        clearTimeout(continueTimer)
        streamed.feed(request, watch).catch((error) => {
          streamed.stop()
          reject(error)
          request.destroy()
        })
      }
      request.once('continue', begin)
      request.once('socket', () => {
        continueTimer = setTimeout(begin, continueMs)
      })
      request.flushHeaders()
    })
  }

  #signed({ method, key, query: asked, headers: more, body }: S3Call): https.RequestOptions {
    const query = Object.entries(asked ?? {}).map(([name, value]) => `${encode(name)}=${encode(value)}`)
    const path = key === undefined ? this.#bucketPath : `${this.#bucketPath}/${encodeKey(key)}`
    const headers: Record<string, string> = { host: this.#host, 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD', ...more }
    if (Buffer.isBuffer(body)) headers['content-length'] = String(body.length)
    else if (body) {
      headers['content-length'] = String(body.contentLength)
      headers.expect = '100-continue'
    } else if (method === 'PUT' || method === 'POST') headers['content-length'] = '0'
    return {
      ...this.#address,
      method,
      path: query.length === 0 ? path : `${path}?${query.join('&')}`,
      headers: this.#signer.sign({ method, path, query, headers }),
      agent: this.#agent
    }
  }

  #watch(request: ClientRequest): SilenceWatch {
    const silenceMs = this.#options.silenceMs ?? 30_000
    let timer: NodeJS.Timeout | undefined
    let isOver = false
    return {
      arm() {
        if (isOver) return
        if (timer) timer.refresh()
        else timer = setTimeout(() => request.destroy(new Error(`silent for ${silenceMs} ms`)), silenceMs)
      },
      rest() {
        clearTimeout(timer)
        timer = undefined
      },
      end() {
        isOver = true
        this.rest()
      }
    }
  }

  #failure(cause: unknown, call: S3Call): Error {
    if (call.signal?.aborted) return cancelled(call.signal)
    return cause instanceof IngestError ? cause : connectionError(cause, describe(call))
  }
}

interface Exchange {
  response: IncomingMessage
  watch: SilenceWatch
  release(): void
}

class StaleSocket extends Error {
  constructor(cause: unknown) {
    super('stale socket', { cause })
  }
}

function describe(call: S3Call): string {
  const query = Object.keys(call.query ?? {})
  return `${call.method} ${call.key ?? 'bucket'}${query.length > 0 ? ` (${query.join(', ')})` : ''}`
}

/** In slices, so that a slow line is not taken for a silent one. */
function sendBuffer(request: ClientRequest, watch: SilenceWatch, body: Buffer = Buffer.alloc(0)): void {
  const slice = body.subarray(0, sliceBytes)
  if (slice.length === body.length) {
    request.end(slice)
    return
  }
  request.write(slice, (error) => {
    if (error) return
    watch.arm()
    sendBuffer(request, watch, body.subarray(slice.length))
  })
}

function readAll(response: IncomingMessage, watch: SilenceWatch): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let sizeBytes = 0
    response.on('data', (chunk: Buffer) => {
      watch.arm()
      sizeBytes += chunk.length
      chunks.push(chunk)
      if (sizeBytes > maxAnswerBytes) response.destroy(new Error('the answer is too long'))
    })
    response.once('end', () => resolve(Buffer.concat(chunks)))
    response.once('error', reject)
    response.once('close', () => {
      // An error for each answer that was whole would be the dearest part of reading it.
      if (!response.readableEnded) reject(new Error('the answer ended early'))
    })
  })
}
