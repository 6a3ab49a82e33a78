/**
 * An object store in memory with conditional writes and multipart uploads. Bytes of large objects are not there: a block
 * is a text that names what it was read from (`sources.ts`), and an object is the text of its blocks.
 */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { crc32 } from 'node:zlib'
import { crc32FromHex, crc32Hex, crc32Of } from '../../domain/crc32.ts'
import { IngestError } from '../../domain/errors.ts'
import type { Condition, ObjectStore, StoredObject, StoredPart } from '../../drivers/store/store.ts'
import { joined } from './sources.ts'
import type { Life, World } from './world.ts'

export interface SimulatedObject extends StoredObject {
  content: Buffer
  storedAt: number
}

interface Upload {
  key: string
  metadata: Record<string, string>
  initiatedAt: number
  parts: Map<number, StoredPart & { content: Buffer }>
  /** What a store that died in the middle of its completion has left of it, see `#complete`. */
  left?: 'spoilt' | 'listed'
}

const MiB = 1024 * 1024
const GiB = 1024 * MiB

export class SimulatedStore {
  readonly objects = new Map<string, SimulatedObject>()
  readonly uploads = new Map<string, Upload>()
  readonly #world: World
  #count = 0
  /** Called before an object is written over. */
  onReplace: (before: SimulatedObject, after: SimulatedObject) => void = () => {}

  constructor(world: World) {
    this.#world = world
  }

  open(life: Life): ObjectStore {
    const world = this.#world
    const failure = (message: string) => new IngestError('STORE_UNAVAILABLE', message)
    const ask = <R>(what: string, effect: () => R, signal?: AbortSignal, takesMs?: number) =>
      world.ask(life, { backend: 'store', what: `store.${what}`, effect, failure, signal, takesMs })
    const writeMs = () => world.random.between(0, world.isFaulty ? world.plan.writeMs : 100)
    return {
      bucket: 'simulated',
      limits: { minPartBytes: 5 * MiB, maxPartBytes: 5 * GiB, maxParts: 10_000, maxObjectBytes: 5 * 1024 * GiB },
      ensureReady: () => ask('ensureReady', () => undefined),
      head: (key, signal) => ask(`head ${key}`, () => this.#shown(key), signal),
      put: (key, body, { metadata, crc32: sum, condition, signal }) =>
        ask(
          `put ${key} ${shownCondition(condition)}`,
          () => this.#put(key, body, metadata, sum, condition),
          signal,
          writeMs()
        ),
      createUpload: (key, metadata, condition) => {
        const create = () => this.#createUpload(key, metadata, condition)
        return ask(`createUpload ${key} ${shownCondition(condition)}`, create, undefined, writeMs())
      },
      uploadPart: async (key, uploadId, { number, sizeBytes, blocks, signal }) => {
        const pieces: Buffer[] = []
        // The store takes the bytes while they come.
        for await (const block of blocks) {
          pieces.push(block.bytes)
          block.release()
        }
        const put = () => this.#uploadPart(uploadId, number, sizeBytes, joined(pieces))
        return ask(`uploadPart ${key} ${number}`, put, signal, writeMs())
      },
      listParts: (key, uploadId) =>
        ask(`listParts ${key}`, () => [...this.#upload(uploadId).parts.values()].map(shownPart)),
      listUploads: (key) =>
        ask(`listUploads ${key}`, () =>
          [...this.uploads]
            .filter(([, upload]) => upload.key === key)
            .map(([uploadId, { initiatedAt }]) => ({ uploadId, initiatedAt }))
        ),
      listStaleUploads: (before) =>
        ask('listStaleUploads', () =>
          [...this.uploads]
            .filter(([, { initiatedAt }]) => initiatedAt < before)
            .map(([uploadId, { key, initiatedAt }]) => ({ key, uploadId, initiatedAt }))
        ),
      completeUpload: (key, uploadId, { parts, sizeBytes, crc32: sum, condition, signal }) => {
        const complete = () => this.#complete(key, uploadId, parts, sizeBytes, sum, condition)
        return ask(`complete ${key} ${shownCondition(condition)}`, complete, signal, writeMs())
      },
      abortUpload: (key, uploadId) => ask(`abort ${key}`, () => void this.uploads.delete(uploadId)),
      read: async (key, { signal } = {}) => {
        const { content, crc32: sum } = await ask(`read ${key}`, () => this.#object(key), signal)
        return Readable.from([content, endingFor(content, sum!)])
      },
      remove: (key) => ask(`remove ${key}`, () => void this.objects.delete(key)),
      url: (key) => `http://store/simulated/${key}`,
      presignedUrl: async () => null,
      async close() {}
    }
  }

  #shown(key: string): StoredObject | null {
    const object = this.objects.get(key)
    if (!object) return null
    const { content: _, storedAt: __, ...shown } = object
    return shown
  }

  #object(key: string): SimulatedObject {
    const object = this.objects.get(key)
    if (!object) throw new IngestError('STORE_NO_SUCH_OBJECT', `there is no object ${key}`)
    return object
  }

  #upload(uploadId: string): Upload {
    const upload = this.uploads.get(uploadId)
    if (!upload || upload.left === 'listed')
      throw new IngestError('STORE_NO_SUCH_UPLOAD', `there is no upload ${uploadId}`)
    return upload
  }

  #put(
    key: string,
    content: Buffer,
    metadata: Record<string, string>,
    sum: string,
    condition: Condition
  ): StoredObject {
    const actual = crc32Hex(crc32(content))
    if (actual !== sum) throw new IngestError('CHECKSUM_MISMATCH', `the bytes have ${actual}, not ${sum}`)
    return this.#write({ key, content, metadata: { ...metadata }, sizeBytes: content.length, crc32: sum }, condition)
  }

  #write(object: Omit<SimulatedObject, 'etag' | 'storedAt'>, condition: Condition): StoredObject {
    this.#require(object.key, condition)
    const there = this.objects.get(object.key)
    // As S3 makes them: the same content sent in the same parts has the same one.
    const written = {
      ...object,
      etag: `etag-${sha256Of(object.content).slice(0, 16)}`,
      storedAt: this.#world.timeline.date
    }
    if (there) this.onReplace(there, written)
    this.objects.set(object.key, written)
    return this.#shown(object.key)!
  }

  #require(key: string, condition: Condition): void {
    const there = this.objects.get(key)
    const isRefused = condition !== null && ('ifMatch' in condition ? there?.etag !== condition.ifMatch : there)
    if (isRefused) throw new IngestError('STORE_PRECONDITION', `${key} is there`)
  }

  #createUpload(key: string, metadata: Record<string, string>, condition: Condition): string {
    this.#require(key, condition)
    const uploadId = `upload-${++this.#count}`
    const initiatedAt = this.#world.timeline.date
    this.uploads.set(uploadId, { key, metadata: { ...metadata }, initiatedAt, parts: new Map() })
    return uploadId
  }

  #uploadPart(uploadId: string, number: number, sizeBytes: number, content: Buffer): StoredPart {
    const part = { number, sizeBytes, content, etag: `part-${++this.#count}`, crc32: crc32Hex(crc32(content)) }
    this.#upload(uploadId).parts.set(number, part)
    return shownPart(part)
  }

  /**
   * The store may die in the middle, as MinIO does when it is killed: before the object is there, when it has forgotten
   * the upload's kind of checksum and refuses it from then on, or after that, when it still lists the upload.
   */
  #complete(
    key: string,
    uploadId: string,
    parts: StoredPart[],
    sizeBytes: number,
    sum: string,
    condition: Condition
  ): StoredObject {
    const { random, isFaulty, plan } = this.#world
    const upload = this.#upload(uploadId)
    if (upload.left === 'spoilt') throw new IngestError('CHECKSUM_MISMATCH', 'the upload has another checksum')
    const dies = isFaulty && random.chance(plan.storeDeath)
    const kept = parts.map(({ number, etag }) => {
      const part = upload.parts.get(number)
      if (part?.etag !== etag) throw new IngestError('STORE_REJECTED', `part ${number} is another one`)
      return part
    })
    if (crc32Of(kept) !== sum) throw new IngestError('CHECKSUM_MISMATCH', 'the parts have another checksum')
    const content = joined(kept.map((part) => part.content))
    if (dies && random.chance(0.5)) {
      upload.left = 'spoilt'
      upload.parts.clear()
      throw new IngestError('STORE_UNAVAILABLE', 'the store died before the object was there')
    }
    const object = this.#write({ key, content, metadata: upload.metadata, sizeBytes, crc32: sum }, condition)
    if (dies) upload.left = 'listed'
    else this.uploads.delete(uploadId)
    return object
  }
}

function shownPart({ number, sizeBytes, etag, crc32: sum }: StoredPart): StoredPart {
  return { number, sizeBytes, etag, crc32: sum }
}

function shownCondition(condition: Condition): string {
  if (condition === null) return 'in any case'
  return 'ifMatch' in condition ? `over ${condition.ifMatch}` : 'if none'
}

/**
 * What makes `content` read as if it had this checksum, which a large object has by bytes that are not there: four bytes
 * set the register of a CRC to whatever is wanted, found by going through its table backwards.
 */
function endingFor(content: Buffer, wanted: string): Buffer {
  const before = crc32(content)
  if (crc32Hex(before) === wanted) return Buffer.alloc(0)
  let register = ~crc32FromHex(wanted)
  for (let step = 0; step < 4; step++) {
    const index = TABLE.findIndex((entry) => entry >>> 24 === register >>> 24)
    register = ((register ^ TABLE[index]!) << 8) | index
  }
  const ending = Buffer.alloc(4)
  ending.writeInt32LE(register ^ ~before)
  return ending
}

/** What each byte does to an empty register. */
const TABLE = Array.from({ length: 256 }, (_, byte) => {
  let entry = byte
  for (let bit = 0; bit < 8; bit++) entry = (entry >>> 1) ^ (entry & 1 ? 0xedb88320 : 0)
  return entry >>> 0
})

export function sha256Of(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex')
}
