import { randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { crc32Hex, crc32Of } from '../../domain/crc32.ts'
import type { Block, Condition, ObjectStore, PartOptions, StoredPart } from '../../drivers/store/store.ts'

export interface OpenedStore {
  store: ObjectStore
  /** Frees what `open` made, after the store was closed. */
  dispose(): Promise<void>
  /** Keys that this store may refuse, as long as it says STORE_REJECTED and keeps the others apart. */
  mayRefuse?: (key: string) => boolean
  /** Whether it begins an upload whatever condition is asked for, as S3 itself does. */
  beginsInAnyCase?: boolean
  /** Keys that this store is known to mishandle; domain/object-key.ts makes none of them. */
  cannotHold?: (key: string) => boolean
}

const MiB = 1024 * 1024
const blockBytes = 128 * 1024

const hostileKeys = [
  'plain',
  'a',
  'a/b',
  'a/b/c',
  'A',
  'A/B',
  'with space',
  ' leading and trailing ',
  'plus+plus',
  'percent%20percent',
  'percent%2Fslash',
  'percent%',
  `quotes'"and<angle>&amp;`,
  'new\nline',
  'carriage\rreturn\ttab',
  'back\\slash',
  'question?mark=1&b=2',
  'hash#fragment',
  'semi;colon:at@comma,dollar$equals=',
  "brackets[1](2){3}!*'|^`~",
  'caf\u00e9',
  'cafe\u0301',
  'emoji \u{1f6a2}/\u{1f433}',
  '\u65e5\u672c\u8a9e.csv',
  '.hidden',
  'dots/.../x',
  'dots/../x',
  'dots/./x',
  'dots/x',
  'double//slash',
  'double/slash',
  'trailing/',
  'folder.d',
  'folder.d/file',
  'folder',
  'folder/file',
  'ends.c',
  'dot.',
  '\u0001control\u007f',
  `long/${'x'.repeat(1019)}`,
  `${'seg/'.repeat(255)}end`,
  `utf8/${'\u00e9'.repeat(509)}`
]

/** What every ObjectStore does; run by each driver. */
export function storeContract(name: string, open: () => Promise<OpenedStore>): void {
  describe(`${name} as an object store`, () => {
    let opened: OpenedStore
    let store: ObjectStore
    let count = 0
    const freshKey = () => `contract/${count++}/file.bin`

    beforeAll(async () => {
      opened = await open()
      store = opened.store
      await store.ensureReady()
    })

    afterAll(async () => {
      await store?.close()
      await opened?.dispose()
    })

    const put = (key: string, body: Buffer, more: Partial<Parameters<ObjectStore['put']>[2]> = {}) =>
      store.put(key, body, { metadata: {}, crc32: hexOf(body), condition: null, ...more })
    const bytesOf = async (key: string, range?: { start: number; end: number }) =>
      collect(await store.read(key, { range }))
    const uploadOf = async (key: string, bytes: Buffer, metadata: Record<string, string> = {}) => {
      const uploadId = await store.createUpload(key, metadata, null)
      const parts = await Promise.all(
        cut(bytes, 5 * MiB)
          .map((part, index) => store.uploadPart(key, uploadId, partOf(index + 1, part).options))
          .reverse()
      )
      return { uploadId, parts: parts.sort((a, b) => a.number - b.number) }
    }
    const complete = (key: string, uploadId: string, parts: StoredPart[], more = {}) =>
      store.completeUpload(key, uploadId, {
        parts,
        sizeBytes: parts.reduce((sum, part) => sum + part.sizeBytes, 0),
        crc32: crc32Of(parts),
        condition: null,
        ...more
      })

    test('making ready twice does no harm', async () => {
      await store.ensureReady()
    })

    test('objects under hostile keys come back whole and do not overwrite one another', async () => {
      const written: string[] = []
      const refused: unknown[] = []
      const { mayRefuse = () => false, cannotHold = () => false } = opened
      for (const key of hostileKeys.filter((hostile) => !cannotHold(hostile))) {
        const body = Buffer.from(`body of ${key}`)
        await put(key, body, { condition: { ifNoneMatch: '*' } }).then(
          () => written.push(key),
          (error) => refused.push([key, error.type])
        )
      }
      expect(refused.filter((row) => !mayRefuse((row as [string])[0]))).toEqual([])
      expect(refused.filter((row) => (row as [string, string])[1] !== 'STORE_REJECTED')).toEqual([])
      for (const key of written) {
        expect([key, (await bytesOf(key)).toString()]).toEqual([key, `body of ${key}`])
        expect((await store.head(key))?.key).toBe(key)
        const presigned = await store.presignedUrl(key, {
          expiresSeconds: 60,
          disposition: 'attachment; filename="x y"'
        })
        if (presigned !== null && !/\.\./.test(key) && !/\/\.\//.test(key)) {
          const answer = await fetch(presigned)
          expect([key, answer.status, await answer.text()]).toEqual([key, 200, `body of ${key}`])
          expect(answer.headers.get('content-disposition')).toBe('attachment; filename="x y"')
        }
      }
      for (const key of written) {
        await store.remove(key)
        expect(await store.head(key)).toBeNull()
      }
    })

    test('keys keep apart in uploads of parts too', async () => {
      const key = `parts/${hostileKeys.find((hostile) => hostile.startsWith('emoji'))!} +%41~'"`
      const bytes = randomBytes(1000)
      const { uploadId, parts } = await uploadOf(key, bytes)
      await complete(key, uploadId, parts)
      expect((await bytesOf(key)).equals(bytes)).toBe(true)
      expect(await store.listUploads(key)).toEqual([])
    })

    test('an object of no bytes is stored', async () => {
      const key = freshKey()
      const stored = await put(key, Buffer.alloc(0))
      expect(stored).toMatchObject({ key, sizeBytes: 0, crc32: '00000000' })
      expect(await store.head(key)).toMatchObject({ key, sizeBytes: 0, crc32: '00000000', etag: stored.etag })
      expect(await bytesOf(key)).toHaveLength(0)
    })

    test('a body of several MiB is stored as it was', async () => {
      const key = freshKey()
      const bytes = randomBytes(3 * MiB + 17)
      await put(key, bytes)
      expect(await store.head(key)).toMatchObject({ sizeBytes: bytes.length, crc32: hexOf(bytes) })
      expect((await bytesOf(key)).equals(bytes)).toBe(true)
    })

    test('metadata come back as they were, whatever their text', async () => {
      const metadata = {
        'longshore-path': '/in/d\u00e9p\u00f4t \u{1f6a2}.csv',
        percent: '100% %41 %e9 =?utf-8?q?x?=',
        spaces: '  two  spaces ',
        lines: 'one\r\ntwo\tthree',
        empty: '',
        plain: 'plain text, as it is'
      }
      const small = freshKey()
      await put(small, Buffer.from('x'), { metadata })
      expect((await store.head(small))?.metadata).toEqual(metadata)
      const large = freshKey()
      const { uploadId, parts } = await uploadOf(large, randomBytes(100), metadata)
      await complete(large, uploadId, parts)
      expect((await store.head(large))?.metadata).toEqual(metadata)
    })

    test('head of an object that is not there is null', async () => {
      expect(await store.head(freshKey())).toBeNull()
    })

    test('reading an object that is not there says so', async () => {
      await expect(bytesOf(freshKey())).rejects.toMatchObject({ type: 'STORE_NO_SUCH_OBJECT' })
    })

    test('removing an object that is not there is no error', async () => {
      await store.remove(freshKey())
    })

    test('a put that wants nothing there is refused when something is', async () => {
      const key = freshKey()
      await put(key, Buffer.from('first'), { condition: { ifNoneMatch: '*' } })
      await expect(put(key, Buffer.from('second'), { condition: { ifNoneMatch: '*' } })).rejects.toMatchObject({
        type: 'STORE_PRECONDITION'
      })
      expect((await bytesOf(key)).toString()).toBe('first')
    })

    test('of many puts at once that want nothing there, one happens', async () => {
      const key = freshKey()
      const bodies = Array.from({ length: 8 }, (_, index) => Buffer.from(`writer ${index}`))
      const results = await Promise.allSettled(
        bodies.map((body) => put(key, body, { condition: { ifNoneMatch: '*' } }))
      )
      const won = results.flatMap((result, index) => (result.status === 'fulfilled' ? [index] : []))
      expect(won).toHaveLength(1)
      expect(await bytesOf(key)).toEqual(bodies[won[0]!])
      expect((await store.head(key))?.crc32).toBe(hexOf(bodies[won[0]!]!))
    })

    test('a put that wants a certain version replaces that one and no other', async () => {
      const key = freshKey()
      const first = await put(key, Buffer.from('first'), { metadata: { of: 'first' } })
      const second = await put(key, Buffer.from('second'), {
        metadata: { of: 'second' },
        condition: { ifMatch: first.etag }
      })
      expect(second.etag).not.toBe(first.etag)
      await expect(put(key, Buffer.from('third'), { condition: { ifMatch: first.etag } })).rejects.toMatchObject({
        type: 'STORE_PRECONDITION'
      })
      expect((await bytesOf(key)).toString()).toBe('second')
      expect(await store.head(key)).toMatchObject({ crc32: hexOf(Buffer.from('second')), metadata: { of: 'second' } })
    })

    test('a put that wants a version of a missing object is refused', async () => {
      await expect(
        put(freshKey(), Buffer.from('x'), { condition: { ifMatch: 'd41d8cd98f00b204e9800998ecf8427e' } })
      ).rejects.toMatchObject({ type: 'STORE_PRECONDITION' })
    })

    test('a put whose checksum is another is refused and leaves nothing', async () => {
      const key = freshKey()
      await expect(put(key, Buffer.from('body'), { crc32: '00000001' })).rejects.toMatchObject({
        type: 'CHECKSUM_MISMATCH'
      })
      expect(await store.head(key)).toBeNull()
    })

    test('parts sent in any order at once become the object', async () => {
      const key = freshKey()
      const bytes = randomBytes(17 * MiB + 4321)
      const { uploadId, parts } = await uploadOf(key, bytes)
      expect(parts.map((part) => part.crc32)).toEqual(cut(bytes, 5 * MiB).map(hexOf))
      const stored = await complete(key, uploadId, parts)
      expect(stored).toMatchObject({ key, sizeBytes: bytes.length })
      expect(await store.head(key)).toMatchObject({ sizeBytes: bytes.length, crc32: hexOf(bytes), etag: stored.etag })
      expect((await bytesOf(key)).equals(bytes)).toBe(true)
      expect(await store.listUploads(key)).toEqual([])
    })

    test('a part sent again replaces the one that was there', async () => {
      const key = freshKey()
      const uploadId = await store.createUpload(key, {}, null)
      await store.uploadPart(key, uploadId, partOf(1, randomBytes(2000)).options)
      const bytes = randomBytes(1999)
      const part = await store.uploadPart(key, uploadId, partOf(1, bytes).options)
      expect(await store.listParts(key, uploadId)).toEqual([part])
      await complete(key, uploadId, [part])
      expect((await bytesOf(key)).equals(bytes)).toBe(true)
    })

    test('a part of exactly one block and parts of odd ends are framed right', async () => {
      const key = freshKey()
      const uploadId = await store.createUpload(key, {}, null)
      for (const size of [1, blockBytes - 1, blockBytes, blockBytes + 1, 2 * blockBytes]) {
        const bytes = randomBytes(size)
        expect(await store.uploadPart(key, uploadId, partOf(1, bytes).options)).toMatchObject({
          sizeBytes: size,
          crc32: hexOf(bytes)
        })
      }
      await store.abortUpload(key, uploadId)
    })

    test('every block is released once', async () => {
      const key = freshKey()
      const uploadId = await store.createUpload(key, {}, null)
      const whole = partOf(1, randomBytes(3 * MiB))
      await store.uploadPart(key, uploadId, whole.options)
      expect(whole.released).toEqual(whole.given)
      const broken = partOf(2, randomBytes(3 * MiB), { throwAfter: 9 })
      await expect(store.uploadPart(key, uploadId, broken.options)).rejects.toThrow('the source broke')
      expect(broken.released).toEqual(broken.given)
      expect(broken.given).toHaveLength(9)
      await store.abortUpload(key, uploadId)
    })

    test('a source that ends early fails the part and leaves neither part nor object', async () => {
      const key = freshKey()
      const uploadId = await store.createUpload(key, {}, null)
      const { options } = partOf(1, randomBytes(2 * MiB))
      await expect(store.uploadPart(key, uploadId, { ...options, sizeBytes: 3 * MiB })).rejects.toMatchObject({
        type: 'SOURCE_CHANGED'
      })
      expect(await store.listParts(key, uploadId)).toEqual([])
      expect(await store.head(key)).toBeNull()
      await store.abortUpload(key, uploadId)
    })

    test('a source that throws fails the part with its own error', async () => {
      const key = freshKey()
      const uploadId = await store.createUpload(key, {}, null)
      const { options } = partOf(1, randomBytes(2 * MiB), { throwAfter: 0 })
      await expect(store.uploadPart(key, uploadId, options)).rejects.toThrow('the source broke')
      expect(await store.listParts(key, uploadId)).toEqual([])
      await store.abortUpload(key, uploadId)
    })

    test('a signal ends a part at once, also while the source is silent', async () => {
      const key = freshKey()
      const uploadId = await store.createUpload(key, {}, null)
      const stop = new AbortController()
      const part = partOf(1, randomBytes(4 * MiB), { silentAfter: 5, onSilent: () => stop.abort() })
      stop.signal.addEventListener('abort', () => (abortedAt = performance.now()))
      let abortedAt = 0
      await expect(store.uploadPart(key, uploadId, { ...part.options, signal: stop.signal })).rejects.toMatchObject({
        type: 'CANCELLED'
      })
      expect(performance.now() - abortedAt).toBeLessThan(10_000)
      expect(part.released).toEqual(part.given)
      expect(await store.listParts(key, uploadId)).toEqual([])
      await store.abortUpload(key, uploadId)
    })

    test('an operation whose signal has fired already does nothing', async () => {
      const key = freshKey()
      const signal = AbortSignal.abort()
      await expect(put(key, Buffer.from('x'), { signal })).rejects.toMatchObject({ type: 'CANCELLED' })
      await expect(store.head(key, signal)).rejects.toMatchObject({ type: 'CANCELLED' })
      expect(await store.head(key)).toBeNull()
    })

    test('an upload whose checksum is another is refused and leaves no object', async () => {
      const key = freshKey()
      const { uploadId, parts } = await uploadOf(key, randomBytes(6 * MiB))
      await expect(complete(key, uploadId, parts, { crc32: '00000001' })).rejects.toMatchObject({
        type: 'CHECKSUM_MISMATCH'
      })
      expect(await store.head(key)).toBeNull()
      await store.abortUpload(key, uploadId)
    })

    test('completing twice gives the same object twice', async () => {
      const key = freshKey()
      const { uploadId, parts } = await uploadOf(key, randomBytes(6 * MiB), { name: 'n' })
      const first = await complete(key, uploadId, parts, { condition: { ifNoneMatch: '*' } })
      const second = await complete(key, uploadId, parts, { condition: { ifNoneMatch: '*' } })
      expect(second).toEqual(first)
      expect(first.metadata).toEqual({ name: 'n' })
    })

    test('completing what was neither begun nor done says that there is no such upload', async () => {
      const key = freshKey()
      const { uploadId, parts } = await uploadOf(key, randomBytes(100))
      await store.abortUpload(key, uploadId)
      await expect(complete(key, uploadId, parts)).rejects.toMatchObject({ type: 'STORE_NO_SUCH_UPLOAD' })
      await expect(store.listParts(key, uploadId)).rejects.toMatchObject({ type: 'STORE_NO_SUCH_UPLOAD' })
      const part = partOf(1, randomBytes(300_000))
      await expect(store.uploadPart(key, uploadId, part.options)).rejects.toMatchObject({
        type: 'STORE_NO_SUCH_UPLOAD'
      })
      expect(part.released).toEqual(part.given)
    })

    test('completing keeps its condition', async () => {
      const key = freshKey()
      const there = await put(key, Buffer.from('there before'))
      const { uploadId, parts } = await uploadOf(key, randomBytes(6 * MiB))
      await expect(complete(key, uploadId, parts, { condition: { ifNoneMatch: '*' } })).rejects.toMatchObject({
        type: 'STORE_PRECONDITION'
      })
      expect((await bytesOf(key)).toString()).toBe('there before')
      const stored = await complete(key, uploadId, parts, { condition: { ifMatch: there.etag } })
      expect(await store.head(key)).toMatchObject({ etag: stored.etag, crc32: crc32Of(parts) })
    })

    test('an upload is begun where its condition holds', async () => {
      const key = freshKey()
      const nothing = await store.createUpload(key, {}, { ifNoneMatch: '*' })
      const there = await put(key, Buffer.from('there'))
      const something = await store.createUpload(key, {}, { ifMatch: there.etag })
      expect((await store.listUploads(key)).map(({ uploadId }) => uploadId).sort()).toEqual([nothing, something].sort())
      for (const uploadId of [nothing, something]) await store.abortUpload(key, uploadId)
    })

    test('an upload is not begun where its condition fails, if the store knows conditions there', async () => {
      const key = freshKey()
      const begin = (condition: Condition) => store.createUpload(key, {}, condition)
      const there = await put(key, Buffer.from('there'))
      if (opened.beginsInAnyCase) return void (await store.abortUpload(key, await begin({ ifNoneMatch: '*' })))
      await expect(begin({ ifNoneMatch: '*' })).rejects.toMatchObject({ type: 'STORE_PRECONDITION' })
      await put(key, Buffer.from('another'))
      await expect(begin({ ifMatch: there.etag })).rejects.toMatchObject({ type: 'STORE_PRECONDITION' })
      await store.remove(key)
      await expect(begin({ ifMatch: there.etag })).rejects.toMatchObject({ type: 'STORE_PRECONDITION' })
      expect(await store.listUploads(key)).toEqual([])
    })

    test('aborting is idempotent and removes the parts', async () => {
      const key = freshKey()
      const { uploadId } = await uploadOf(key, randomBytes(100))
      await store.abortUpload(key, uploadId)
      await store.abortUpload(key, uploadId)
      expect(await store.listUploads(key)).toEqual([])
      expect(await store.head(key)).toBeNull()
    })

    test('parts are listed by number, with size and checksum', async () => {
      const key = freshKey()
      const { uploadId, parts } = await uploadOf(key, randomBytes(11 * MiB))
      expect(await store.listParts(key, uploadId)).toEqual(parts)
      await store.abortUpload(key, uploadId)
    })

    test('uploads are listed by exactly their key', async () => {
      const key = freshKey()
      const before = Date.now() - 60_000
      const uploadId = await store.createUpload(key, {}, null)
      const longer = await store.createUpload(`${key}.old`, {}, null)
      const below = await store.createUpload(`${key}/below`, {}, null)
      const listed = await store.listUploads(key)
      expect(listed.map((upload) => upload.uploadId)).toEqual([uploadId])
      expect(listed[0]!.initiatedAt).toBeGreaterThan(before)
      await store.abortUpload(key, uploadId)
      await store.abortUpload(`${key}.old`, longer)
      await store.abortUpload(`${key}/below`, below)
    })

    test('stale uploads of the whole bucket are listed by their age', async () => {
      const key = `stale/${freshKey()} +é`
      const uploadId = await store.createUpload(key, {}, null)
      const found = await store.listStaleUploads(Date.now() + 60_000)
      expect(found).toContainEqual({ key, uploadId, initiatedAt: expect.any(Number) })
      expect(await store.listStaleUploads(Date.now() - 3_600_000)).toEqual([])
      await store.abortUpload(key, uploadId)
    })

    test('a range of an object is read, first and last byte included', async () => {
      const key = freshKey()
      const bytes = randomBytes(300_000)
      await put(key, bytes)
      expect((await bytesOf(key, { start: 100_000, end: 200_000 })).equals(bytes.subarray(100_000, 200_001))).toBe(true)
      expect((await bytesOf(key, { start: 0, end: 0 })).equals(bytes.subarray(0, 1))).toBe(true)
    })

    test('a reader that leaves early or never starts holds nothing up', async () => {
      const key = freshKey()
      await put(key, randomBytes(4 * MiB))
      for (let index = 0; index < 100; index++) {
        const stream = await store.read(key)
        ;(stream as unknown as { destroy(): void }).destroy()
      }
      for await (const chunk of await store.read(key)) {
        expect(chunk.length).toBeGreaterThan(0)
        break
      }
      expect(await bytesOf(key)).toHaveLength(4 * MiB)
    })

    test('the address of an object is of its bucket and key', () => {
      expect(store.url('a b/c+d.csv')).toMatch(/a%20b/)
    })
  })
}

function hexOf(bytes: Buffer): string {
  return crc32Hex(crc32(bytes))
}

function cut(bytes: Buffer, size: number): Buffer[] {
  const pieces: Buffer[] = []
  for (let start = 0; start < bytes.length; start += size) pieces.push(bytes.subarray(start, start + size))
  return pieces
}

async function collect(stream: NodeJS.ReadableStream): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** A part whose blocks are counted as they are given and released. */
export function partOf(
  number: number,
  bytes: Buffer,
  faults: { throwAfter?: number; silentAfter?: number; onSilent?: () => void } = {}
): { options: PartOptions; given: number[]; released: number[] } {
  const given: number[] = []
  const released: number[] = []
  async function* blocks(): AsyncGenerator<Block> {
    for (const [index, piece] of cut(bytes, blockBytes).entries()) {
      if (faults.throwAfter === index) throw new Error('the source broke')
      if (faults.silentAfter === index) {
        faults.onSilent?.()
        await new Promise(() => {})
      }
      given.push(index)
      yield {
        bytes: piece,
        release: () => {
          released.push(index)
          released.sort((a, b) => a - b)
        }
      }
    }
  }
  return { options: { number, sizeBytes: bytes.length, blocks: blocks(), blockBytes }, given, released }
}
