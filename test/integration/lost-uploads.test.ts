/** Multipart uploads that were begun while replies were lost or workers stood still: on a real MinIO, nothing of them stays. */
import { randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals'
import { crc32Hex } from '../../domain/crc32.ts'
import type { IngestError } from '../../domain/errors.ts'
import type { Outcome } from '../../domain/file.ts'
import type { FileRecord, UploadState } from '../../domain/file-record.ts'
import { type CopyJob, copyFile } from '../../drivers/copy.ts'
import { s3Store } from '../../drivers/store/s3.ts'
import { S3Client } from '../../drivers/store/s3-request.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { Drain, type DrainPorts } from '../../workers/drain.ts'
import { MemoryBudget } from '../../workers/memory-budget.ts'
import { copyJob } from '../support/copy-job.ts'
import { type MemorySource, memorySource, memorySourceMtime } from '../support/memory-source.ts'
import { type S3Server, startMinio } from '../support/minio.ts'
import { type S3Fault, type S3Operation, type S3Proxy, startS3Proxy } from '../support/s3-proxy.ts'

const MiB = 1024 * 1024

let minio: S3Server
let proxy: S3Proxy
let source: MemorySource
/** Past the proxy, to look at what is there. */
let direct: ObjectStore
/** Through the proxy, as a worker has it. */
let store: ObjectStore
let count = 0

beforeAll(async () => {
  minio = await startMinio()
  proxy = await startS3Proxy(minio.endpoint)
  direct = opened(minio.endpoint)
  store = opened(proxy.endpoint)
  await direct.ensureReady()
  source = memorySource(randomBytes(17 * MiB))
})
afterEach(() => {
  if (proxy) proxy.fault = null
})
afterAll(async () => {
  await store?.close()
  await direct?.close()
  await proxy?.close()
  await minio?.stop()
})

function opened(endpoint: string): ObjectStore {
  const { accessKey, secretKey } = minio
  return s3Store({ endpoint, accessKey, secretKey, bucket: 'lost' })
}

/** A claimed record of the file, under a key of its own. */
function claimed(more: Partial<FileRecord> = {}): FileRecord {
  const key = `partner/large-${count++}`
  const identity = { _id: `id of ${key}`, path: '/large', version: 1, size: 17 * MiB, mtime: memorySourceMtime }
  return { ...identity, epoch: 1, reservedKey: key, upload: null, refetch: null, object: null, ...more } as FileRecord
}

function jobOf(file: FileRecord, more: Partial<CopyJob> = {}): CopyJob {
  const keepUpload = async (upload: UploadState | null) => {
    file.upload = upload && structuredClone(upload)
  }
  return copyJob(file, { keepUpload, ...more })
}

/** How a worker's stay at the server ends for this one file. */
async function outcomeOfStay(file: FileRecord): Promise<Outcome> {
  const ended = Promise.withResolvers<Outcome>()
  const waiting = [file]
  const ports: DrainPorts = {
    claim: async () => waiting.splice(0),
    keepUpload: (_, upload) => jobOf(file).keepUpload(upload),
    finish: async (_, outcome) => ended.resolve(outcome),
    finishEach: async ([first]) => ended.resolve(first!.outcome),
    now: Date.now
  }
  const memory = new MemoryBudget(64 * MiB).join()
  const options = { checksum: 'crc32' as const, concurrency: 4, memory, signal: new AbortController().signal }
  await new Drain(source.sftp, store, ports, options).run()
  return ended.promise
}

/** The next request of this kind meets the fault, and no other. */
function once(operation: S3Operation, fault: S3Fault): void {
  proxy.fault = (request) => {
    if (request.operation !== operation) return null
    proxy.fault = null
    return fault
  }
}

describe('a multipart upload whose beginning was lost', () => {
  test('is gone when the file is stored by the next attempt', async () => {
    const file = claimed()
    once('create', { kind: 'lostReply' })
    await expect(copyFile(source.sftp, store, jobOf(file))).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
    expect(await direct.listUploads(file.reservedKey!)).toHaveLength(1)
    const next = { ...file, epoch: 2 }
    expect(await copyFile(source.sftp, store, jobOf(next))).toMatchObject({ kind: 'stored' })
    expect(await direct.listUploads(file.reservedKey!)).toEqual([])
  })

  test('is gone when the file is stored by the same attempt, at a store that knows no condition on it', async () => {
    const plain = opened(proxy.endpoint)
    once('create', { kind: 'answer', status: 501, code: 'NotImplemented' })
    const taught = claimed()
    expect(await copyFile(source.sftp, plain, jobOf(taught))).toMatchObject({ kind: 'stored' })
    const file = claimed()
    // On a socket that was used before, which might as well have been closed meanwhile: it is begun again at once.
    once('create', { kind: 'lostReply' })
    expect(await copyFile(source.sftp, plain, jobOf(file))).toMatchObject({ kind: 'stored' })
    expect(proxy.fault).toBeNull()
    for (const { reservedKey } of [taught, file]) expect(await direct.listUploads(reservedKey!)).toEqual([])
    await plain.close()
  })

  test('is gone when the file is stored at its first attempt, though no record ever knew of it', async () => {
    const file = claimed()
    // As a store shows one that was killed in the middle of a completion.
    const ruined: ObjectStore = {
      ...store,
      completeUpload: async (...completion) => {
        await direct.createUpload(file.reservedKey!, {}, null)
        return store.completeUpload(...completion)
      }
    }
    expect(await copyFile(source.sftp, ruined, jobOf(file))).toMatchObject({ kind: 'stored' })
    expect(await direct.listUploads(file.reservedKey!)).toEqual([])
  })
})

describe('the beginning of an upload that travels while another worker copies the file', () => {
  /** Of the worker whose lease ran out meanwhile; what it asks of the store arrives when `goOn` is called. */
  function stopped(file: FileRecord) {
    const arrived = Promise.withResolvers<void>()
    const going = Promise.withResolvers<void>()
    const held: ObjectStore = {
      ...store,
      createUpload: async (...wanted) => {
        arrived.resolve()
        await going.promise
        return store.createUpload(...wanted)
      }
    }
    const copying = copyFile(source.sftp, held, jobOf(file)).catch((error: IngestError) => error.type)
    return { arrived: arrived.promise, goOn: going.resolve, copying }
  }

  test('is refused when the file is stored, so that an answer that is lost then leaves nothing', async () => {
    const file = claimed()
    const { arrived, goOn, copying } = stopped(file)
    await arrived
    const next = { ...file, epoch: 2 }
    expect(await copyFile(source.sftp, store, jobOf(next))).toMatchObject({ kind: 'stored' })
    proxy.fault = ({ operation }) => (operation === 'create' || operation === 'abort' ? { kind: 'lostReply' } : null)
    goOn()
    expect(await copying).toBe('STORE_UNAVAILABLE')
    proxy.fault = null
    expect(await direct.listUploads(file.reservedKey!)).toEqual([])
  })

  test('ends the copy when its answer comes', async () => {
    const file = claimed()
    const { arrived, goOn, copying } = stopped(file)
    await arrived
    const next = { ...file, epoch: 2 }
    expect(await copyFile(source.sftp, store, jobOf(next))).toMatchObject({ kind: 'stored' })
    goOn()
    expect(await copying).toBe('LEASE_LOST')
    expect(await direct.head(file.reservedKey!)).toMatchObject({ metadata: { 'longshore-epoch': '2' } })
  })

  test('is not made at all under a key that somebody else has', async () => {
    const file = claimed()
    const body = Buffer.from('of somebody else')
    const sum = crc32Hex(crc32(body))
    await direct.put(file.reservedKey!, body, { metadata: {}, crc32: sum, condition: null })
    let read = 0
    const job = jobOf(file, { onBytes: (bytes) => (read += bytes) })
    expect(await copyFile(source.sftp, store, job)).toMatchObject({ kind: 'keyTaken' })
    expect([read, await direct.listUploads(file.reservedKey!)]).toEqual([0, []])
  })
})

describe('the upload of a refetch whose source holds other bytes by now', () => {
  /** Every request that is about uploads is reset; parts still travel. */
  const away = ({ operation }: { operation: S3Operation }): S3Fault | null =>
    operation === 'list' || operation === 'abort' ? { kind: 'reset' } : null

  /** The worker of epoch 2 copies again what was stored with another checksum. */
  const refetched = () =>
    claimed({
      epoch: 2,
      refetch: { status: 'notified', announcement: {}, epoch: 1 } as FileRecord['refetch'],
      object: { checksum: { algorithm: 'crc32', value: '00000000' } } as FileRecord['object']
    })

  test('is waited for while the store is away, since nobody comes back for it once the refetch has ended', async () => {
    const file = refetched()
    proxy.fault = (request) => (file.upload?.parts.length ? away(request) : null)
    await expect(copyFile(source.sftp, store, jobOf(file))).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
    expect(await direct.listUploads(file.reservedKey!)).toHaveLength(1)
    proxy.fault = null
    let read = 0
    const next = jobOf({ ...file, epoch: 3 }, { onBytes: (bytes) => (read += bytes) })
    expect(await copyFile(source.sftp, store, next)).toMatchObject({ kind: 'changed' })
    expect([read, await direct.listUploads(file.reservedKey!)]).toEqual([0, []])
  })
})

describe('an upload that a store killed in mid-completion left behind', () => {
  /** MinIO forgets which checksum such an upload has, and refuses its completion from then on, whatever parts come. */
  async function spoilt(file: FileRecord): Promise<UploadState> {
    const { endpoint, accessKey, secretKey } = minio
    const client = new S3Client({ endpoint, bucket: 'lost', region: 'us-east-1', accessKey, secretKey })
    const { body } = await client.send({ method: 'POST', key: file.reservedKey!, query: { uploads: '' } })
    client.close()
    const uploadId = /<UploadId>([^<]+)</.exec(body)![1]!
    return { uploadId, partBytes: 16 * MiB, size: file.size, mtime: file.mtime, parts: [] }
  }

  test('costs one attempt, though its parts were sent, and the next one begins anew', async () => {
    const file = claimed({ epoch: 2 })
    file.upload = await spoilt(file)
    expect(await outcomeOfStay(file)).toMatchObject({ kind: 'retry', error: { type: 'CHECKSUM_MISMATCH' } })
    const next = { ...file, epoch: 3 }
    expect(await copyFile(source.sftp, store, jobOf(next))).toMatchObject({ kind: 'stored' })
    expect(await direct.listUploads(file.reservedKey!)).toEqual([])
  })
})
