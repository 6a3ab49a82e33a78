/**
 * An HTTP proxy in front of a real S3 store that answers some requests with a fault. It passes the `Host` header on, so
 * that signatures stay right, and never reads a body whole.
 */
import { once } from 'node:events'
import { Agent, createServer, type IncomingMessage, type ServerResponse, request as send } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { type Readable, Transform } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'

export type S3Operation =
  | 'put'
  | 'part'
  | 'create'
  | 'complete'
  | 'abort'
  | 'remove'
  | 'head'
  | 'get'
  | 'list'
  | 'other'

export interface S3Request {
  operation: S3Operation
  /** Bucket and key as in the address, still escaped. */
  path: string
  partNumber: number | null
}

export type S3Fault =
  /** An error document instead of the store's answer; the request never gets there. */
  | { kind: 'answer'; status: number; code: string }
  /** The connection is reset before anything was passed on. */
  | { kind: 'reset' }
  /** The request is carried out, and the connection reset instead of its answer. */
  | { kind: 'lostReply' }
  /** One byte of the body arrives as another. */
  | { kind: 'flip' }
  /** One byte of the body of the answer does. */
  | { kind: 'flipAnswer' }
  /** The body crawls. */
  | { kind: 'slow'; bytesPerSecond: number }
  /** The request is taken, or so many bytes of its body, and nothing comes back until `release`. */
  | { kind: 'silent'; afterBytes?: number }

export interface S3Proxy {
  readonly endpoint: string
  /** Asked once for each request; null lets it pass. */
  fault: ((request: S3Request) => S3Fault | null) | null
  /** Whether it is a store that knows no checksums: they are taken out of its answers. */
  hidesChecksums: boolean
  /** Requests so far, and how many of them met a fault. */
  readonly seen: { requests: number; faults: number; byOperation: Partial<Record<S3Operation, number>> }
  /** Ends what `silent` holds. */
  release(): void
  close(): Promise<void>
}

export async function startS3Proxy(target: string): Promise<S3Proxy> {
  const { hostname, port } = new URL(target)
  const agent = new Agent({ keepAlive: true })
  const held = new Set<ServerResponse>()
  const seen: S3Proxy['seen'] = { requests: 0, faults: 0, byOperation: {} }

  const pass = (request: IncomingMessage, response: ServerResponse, fault: S3Fault | null) => {
    const { method, url: path, rawHeaders: headers } = request
    const upstream = send({ hostname, port, method, path, headers, agent })
    const fail = () => reset(request.socket)
    // A store that answers before it has everything closes the connection soon; its answer is on the way then.
    upstream.on('error', () => response.headersSent || fail())
    request.on('error', () => upstream.destroy())
    response.on('close', () => upstream.destroy())
    upstream.on('response', (answer) => {
      if (fault?.kind === 'lostReply') return fail()
      answer.on('error', fail)
      const body = fault?.kind === 'flipAnswer' ? answer.pipe(flipping()) : answer
      if (proxy.hidesChecksums) {
        withoutChecksums(answer, body, response)
        return
      }
      response.writeHead(answer.statusCode!, answer.rawHeaders)
      body.pipe(response)
    })
    const through = fault?.kind === 'flip' ? flipping() : fault?.kind === 'slow' ? slowly(fault.bytesPerSecond) : null
    if (through) request.pipe(through).pipe(upstream)
    else request.pipe(upstream)
  }

  const server = createServer((request, response) => {
    const asked = describe(request)
    seen.requests++
    seen.byOperation[asked.operation] = (seen.byOperation[asked.operation] ?? 0) + 1
    const fault = proxy.fault?.(asked) ?? null
    if (fault) seen.faults++
    if (fault?.kind === 'reset') return reset(request.socket)
    if (fault?.kind === 'answer') return refuse(request, response, fault)
    if (fault?.kind === 'silent') {
      held.add(response.on('close', () => held.delete(response)))
      let left = fault.afterBytes ?? Number.POSITIVE_INFINITY
      request.on('data', (chunk: Buffer) => {
        left -= chunk.length
        if (left <= 0) request.pause()
      })
      request.on('error', () => undefined)
      return
    }
    pass(request, response, fault)
  })
  server.requestTimeout = 0
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')

  const release = () => {
    for (const response of held) if (response.socket) reset(response.socket)
  }
  const proxy: S3Proxy = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    fault: null,
    hidesChecksums: false,
    seen,
    release,
    async close() {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      agent.destroy()
      await closed
    }
  }
  return proxy
}

function describe({ method, url }: IncomingMessage): S3Request {
  const { pathname, searchParams } = new URL(url!, 'http://s3')
  const isUpload = searchParams.has('uploadId')
  const operations: Record<string, S3Operation> = {
    PUT: isUpload ? 'part' : 'put',
    POST: isUpload ? 'complete' : searchParams.has('uploads') ? 'create' : 'other',
    DELETE: isUpload ? 'abort' : 'remove',
    HEAD: 'head',
    GET: isUpload || searchParams.has('uploads') || searchParams.has('list-type') ? 'list' : 'get'
  }
  const partNumber = searchParams.get('partNumber')
  return {
    operation: operations[method!] ?? 'other',
    path: pathname,
    partNumber: partNumber === null ? null : Number(partNumber)
  }
}

function reset(socket: Socket): void {
  // libuv cannot reset a socket whose end is on its way, and Node would keep its handle for ever.
  if (socket.writableEnded) socket.destroy()
  else socket.resetAndDestroy()
}

/** Status 200 is how S3 reports a Complete that failed after it had begun to answer. */
function refuse(request: IncomingMessage, response: ServerResponse, fault: { status: number; code: string }): void {
  const body = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${fault.code}</Code><Message>injected</Message></Error>`
  request.resume()
  response.writeHead(fault.status, { 'content-type': 'application/xml', connection: 'close' })
  response.end(request.method === 'HEAD' ? undefined : body)
}

/** As an S3 from before 2022 answers, in its headers and in its documents. */
function withoutChecksums(answer: IncomingMessage, body: Readable, response: ServerResponse): void {
  const { statusCode, headers } = answer
  const isDocument = headers['content-type'] === 'application/xml'
  const isPassed = (name: string) => !name.startsWith('x-amz-checksum-') && !(isDocument && name === 'content-length')
  response.writeHead(statusCode!, Object.fromEntries(Object.entries(headers).filter(([name]) => isPassed(name))))
  if (!isDocument) {
    body.pipe(response)
    return
  }
  let text = ''
  body.setEncoding('utf8').on('data', (piece: string) => {
    text += piece
  })
  body.on('end', () => response.end(text.replaceAll(/<Checksum(\w+)>[^<]*<\/Checksum\1>/g, '')))
}

/** In the middle of the first chunk that is large enough to be of a file, not of its framing. */
function flipping(): Transform {
  let isDone = false
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      if (!isDone && chunk.length > 64) {
        isDone = true
        const at = chunk.length >> 1
        chunk[at] = chunk[at]! ^ 1
      }
      done(null, chunk)
    }
  })
}

function slowly(bytesPerSecond: number): Transform {
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      delay((chunk.length * 1000) / bytesPerSecond).then(() => done(null, chunk))
    }
  })
}
