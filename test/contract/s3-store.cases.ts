import { randomBytes } from 'node:crypto'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { crc32Of } from '../../domain/crc32.ts'
import { type S3Options, s3Store } from '../../drivers/store/s3.ts'
import type { S3Server } from '../support/minio.ts'
import { partOf } from './store.contract.ts'

/** What a driver for a store over the network does when the network or the store is not there. */
export function s3FaultCases(name: string, start: () => Promise<S3Server>): void {
  describe(`${name} out of reach`, () => {
    let server: S3Server
    const optionsOf = (more: Partial<S3Options> = {}): S3Options => ({
      endpoint: server.endpoint,
      accessKey: server.accessKey,
      secretKey: server.secretKey,
      bucket: 'faults',
      ...more
    })
    const body = Buffer.from('123456789')
    const write = { metadata: {}, crc32: 'cbf43926', condition: null }

    beforeAll(async () => {
      server = await start()
    })
    afterAll(() => server?.stop())

    test('a store that is down is STORE_UNAVAILABLE at once and works again after its return', async () => {
      const store = s3Store(optionsOf())
      await store.ensureReady()
      await store.put('before', body, write)
      await server.halt()
      const askedAt = performance.now()
      await expect(store.put('during', body, write)).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
      await expect(store.head('before')).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
      await expect(store.ensureReady()).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
      expect(performance.now() - askedAt).toBeLessThan(10_000)
      await server.resume()
      expect(await store.head('before')).toMatchObject({ sizeBytes: 9 })
      await store.put('after', body, write)
      await store.close()
    })

    test('a kept-alive socket that died with the store is not taken for a fault of the store', async () => {
      const store = s3Store(optionsOf())
      await store.ensureReady()
      await store.put('kept', body, write)
      await server.halt()
      await server.resume()
      expect(await store.head('kept')).toMatchObject({ sizeBytes: 9 })
      await store.close()
    })

    test('wrong credentials are STORE_DENIED', async () => {
      const store = s3Store(optionsOf({ secretKey: 'not-the-secret' }))
      await expect(store.ensureReady()).rejects.toMatchObject({ type: 'STORE_DENIED' })
      await expect(store.put('denied', body, write)).rejects.toMatchObject({ type: 'STORE_DENIED' })
      await expect(store.head('denied')).rejects.toMatchObject({ type: 'STORE_DENIED' })
      await store.close()
    })

    test('a bucket that is not there makes writes wait', async () => {
      const store = s3Store(optionsOf({ bucket: 'no-such-bucket' }))
      await expect(store.put('x', body, write)).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
      await store.close()
    })

    test('a store that accepts and stays silent is STORE_UNAVAILABLE after the deadline', async () => {
      const { endpoint, stop } = await listen(() => {})
      const store = s3Store(optionsOf({ endpoint, silenceMs: 200 }))
      await expect(store.put('x', body, write)).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
      await expect(store.ensureReady()).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
      await store.close()
      await stop()
    })

    test('a store that takes a whole part and stays silent then is STORE_UNAVAILABLE after the deadline', async () => {
      const { endpoint, stop } = await listen((socket) => {
        socket.write('HTTP/1.1 100 Continue\r\n\r\n')
        // More than the kernel takes waits for this, so that the end of the part is sent last of all.
        setTimeout(() => socket.resume(), 200)
      })
      const store = s3Store(optionsOf({ endpoint, silenceMs: 1000 }))
      const bytes = randomBytes(16 * 1024 * 1024)
      // Whether the last block or the end of the part is sent last is up to the kernel: of several, some go either way.
      const sending = [1, 2, 3, 4, 5, 6].map((number) => store.uploadPart('x', 'id', partOf(number, bytes).options))
      for (const sent of await Promise.allSettled(sending)) {
        expect(sent).toMatchObject({ status: 'rejected', reason: { type: 'STORE_UNAVAILABLE' } })
      }
      await store.close()
      await stop()
    }, 30_000)

    test.each([null, { ifNoneMatch: '*' as const }])(
      'a completion whose reply was lost counts as done (%j)',
      async (condition) => {
        const direct = s3Store(optionsOf())
        await direct.ensureReady()
        const proxy = await losingReplies(server.endpoint, 'POST')
        const lossy = s3Store(optionsOf({ endpoint: proxy.endpoint }))
        const key = `lost/${condition === null ? 'plain' : 'conditional'}`
        const uploadId = await direct.createUpload(key, { of: 'lost' }, null)
        const parts = [await lossy.uploadPart(key, uploadId, partOf(1, randomBytes(400_000)).options)]
        const wanted = { parts, sizeBytes: 400_000, crc32: crc32Of(parts), condition }
        expect(await lossy.completeUpload(key, uploadId, wanted)).toMatchObject({
          crc32: wanted.crc32,
          metadata: { of: 'lost' }
        })
        expect(await direct.head(key)).toMatchObject({ crc32: wanted.crc32 })
        await lossy.close()
        await direct.close()
        await proxy.stop()
      }
    )

    test('a socket that the store closed between two requests costs nothing', async () => {
      let requests = 0
      const { endpoint, stop } = await listen((socket) => {
        let isFirst = true
        socket.on('data', () => {
          requests++
          if (isFirst) socket.write('HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n')
          else socket.destroy()
          isFirst = false
        })
      })
      const store = s3Store(optionsOf({ endpoint }))
      expect(await store.head('x')).toBeNull()
      expect(await store.head('x')).toBeNull()
      expect(requests).toBe(3)
      await store.close()
      await stop()
    })

    test('a socket is left after its idle time, before the store would close it, and never while an answer is awaited', async () => {
      const closed = Promise.withResolvers<void>()
      let sockets = 0
      const { endpoint, stop } = await listen((socket) => {
        sockets++
        socket.on('close', () => closed.resolve())
        const answer = () => socket.write('HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n')
        socket.on('data', () => setTimeout(answer, 300))
      })
      const store = s3Store(optionsOf({ endpoint, idleMs: 100 }))
      expect(await store.head('x')).toBeNull()
      await closed.promise
      expect(await store.head('x')).toBeNull()
      expect(sockets).toBe(2)
      await store.close()
      await stop()
    })

    test.each([
      [503, 'SlowDown', 'STORE_UNAVAILABLE'],
      [507, 'XMinioStorageFull', 'STORE_FULL'],
      [400, 'BadDigest', 'CHECKSUM_MISMATCH'],
      [400, 'EntityTooSmall', 'STORE_REJECTED'],
      [409, 'ConditionalRequestConflict', 'STORE_PRECONDITION']
    ])("an answer %i %s is %s, with S3's own words", async (status, code, type) => {
      const text = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>its words</Message></Error>`
      const answer = `HTTP/1.1 ${status} X\r\ncontent-length: ${text.length}\r\n\r\n${text}`
      const { endpoint, stop } = await listen((socket) => socket.on('data', () => socket.write(answer)))
      const store = s3Store(optionsOf({ endpoint }))
      const put = store.put('x', body, write)
      await expect(put).rejects.toMatchObject({ type, data: { status, code } })
      await expect(put).rejects.toThrow('its words')
      await store.close()
      await stop()
    })

    test('a signal frees a call to a silent store at once', async () => {
      const { endpoint, stop } = await listen(() => {})
      const store = s3Store(optionsOf({ endpoint }))
      const askedAt = performance.now()
      await expect(store.head('x', AbortSignal.timeout(50))).rejects.toMatchObject({ type: 'CANCELLED' })
      expect(performance.now() - askedAt).toBeLessThan(10_000)
      await store.close()
      await stop()
    })
  })
}

/** A server of raw sockets on loopback, and its end with all of them. */
async function listen(onSocket: (socket: Socket) => void): Promise<{ endpoint: string; stop(): Promise<void> }> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}))
    onSocket(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    }
  }
}

/** In front of `endpoint`: lets requests through, and cuts the line instead of bringing the reply to one of `method`. */
function losingReplies(endpoint: string, method: string): Promise<{ endpoint: string; stop(): Promise<void> }> {
  const { hostname, port } = new URL(endpoint)
  return listen((socket) => {
    const upstream = connect(Number(port), hostname).on('error', () => {})
    let isLost = false
    socket.on('data', (bytes) => {
      isLost ||= bytes.toString('latin1').startsWith(method)
      upstream.write(bytes)
    })
    upstream.on('data', (bytes) => {
      if (isLost) socket.destroy()
      else socket.write(bytes)
    })
    socket.on('close', () => upstream.destroy())
    upstream.on('close', () => socket.destroy())
  })
}
