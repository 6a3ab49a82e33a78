/** How soon a copy is over that was given up, whatever it waits for: an OpenSSH and a MinIO behind proxies that hold it up. */
import { realpath } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals'
import type { FileRecord } from '../../domain/file-record.ts'
import { planParts } from '../../domain/ranges.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import { s3Store } from '../../drivers/store/s3.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { Drain, type DrainPorts } from '../../workers/drain.ts'
import { MemoryBudget } from '../../workers/memory-budget.ts'
import { claimedFile } from '../support/copy-job.ts'
import { starvedMs } from '../support/cpu-time.ts'
import { openBelow } from '../support/handles.ts'
import { type S3Server, startMinio } from '../support/minio.ts'
import { connectTo, type Sshd, startSshd } from '../support/openssh.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'
import { type S3Fault, type S3Operation, type S3Proxy, startS3Proxy } from '../support/s3-proxy.ts'
import { writeSource } from '../support/source-files.ts'
import { waitFor } from '../support/wait.ts'

const KiB = 1024
const MiB = 1024 * KiB
const LARGE = 'large'
const SMALL = 'small'
const OTHER = 'other'

let sshd: Sshd
let root: string
let minio: S3Server
let s3: S3Proxy
let store: ObjectStore
let proxy: FaultyProxy
let sftp: Sftp
let stop: AbortController
let run: Promise<unknown> | null

beforeAll(async () => {
  sshd = await startSshd()
  root = await realpath(sshd.root)
  minio = await startMinio()
  s3 = await startS3Proxy(minio.endpoint)
  const { accessKey, secretKey } = minio
  store = s3Store({ endpoint: s3.endpoint, accessKey, secretKey, bucket: 'cancelled' })
  await store.ensureReady()
  await writeSource(root, LARGE, 48 * MiB)
  await writeSource(root, OTHER, 48 * MiB)
  await writeSource(root, SMALL, 3 * MiB)
})
afterAll(async () => {
  await store?.close()
  await s3?.close()
  await minio?.stop()
  await sshd?.stop()
})

beforeEach(async () => {
  proxy = await startProxy({ target: { host: sshd.host, port: sshd.port } })
  sftp = await connectTo({ ...sshd, port: proxy.port })
  stop = new AbortController()
  run = null
})
afterEach(async () => {
  stop.abort(new Error('the test is over'))
  await run
  s3.fault = null
  s3.release()
  await sftp.close()
  await proxy.close()
})

const claimed = (name: string) => claimedFile(join(root, name), name)

/** A stay that copies these files through the proxies. */
function copying(files: FileRecord[], { concurrency = 8, memoryBytes = 80 * MiB } = {}): Drain {
  const waiting = [...files]
  const ports: DrainPorts = {
    now: Date.now,
    claim: async (limit) => waiting.splice(0, limit),
    keepUpload: async () => undefined,
    finish: async () => undefined,
    finishEach: async () => undefined
  }
  const memory = new MemoryBudget(memoryBytes).join()
  const drain = new Drain(sftp, store, ports, { checksum: 'crc32', concurrency, memory, signal: stop.signal })
  run = drain.run().catch(() => undefined)
  return drain
}

/** Whether it still waits for its place or memory. */
const waits = (drain: Drain, name: string) => drain.copying.get(`id of ${name}`)?.hasBegun === false
const readBytes = (bytes: number) =>
  waitFor(() => proxy.received > bytes, { what: 'some of it to be read', everyMs: 5 })

async function expectGivenUp(drain: Drain, name: string): Promise<void> {
  const id = `id of ${name}`
  expect(drain.copying.has(id)).toBe(true)
  const starved = starvedMs()
  const start = performance.now()
  drain.giveUp(id, 'cancelled')
  await waitFor(() => !drain.copying.has(id), { what: 'the file to be given up', everyMs: 5 })
  expect(performance.now() - start - starved()).toBeLessThan(1_000)
}

/** A stay at which the requests of one kind meet a fault; resolves when one has. */
async function faulty(file: FileRecord, operation: S3Operation, fault: S3Fault): Promise<Drain> {
  const { faults } = s3.seen
  s3.fault = (request) => (request.operation === operation ? fault : null)
  const drain = copying([file])
  await waitFor(() => s3.seen.faults > faults, { what: `the fault at a ${operation}`, everyMs: 5 })
  return drain
}

test('a file that waits for memory is given up within a second, and the one that has it goes on', async () => {
  proxy.throttle(512 * KiB)
  const drain = copying([await claimed(LARGE), await claimed(OTHER)], { memoryBytes: 16 * MiB })
  await readBytes(256 * KiB)
  expect([waits(drain, LARGE), waits(drain, OTHER)]).toEqual([false, true])
  await expectGivenUp(drain, OTHER)
  expect(drain.copying.size).toBe(1)
})

test('a file that waits for a place is given up within a second, and the next one has the place', async () => {
  proxy.throttle(512 * KiB)
  const files = await Promise.all([LARGE, OTHER, SMALL].map(claimed))
  const drain = copying(files, { concurrency: 1 })
  await readBytes(256 * KiB)
  expect([waits(drain, LARGE), waits(drain, OTHER)]).toEqual([false, true])
  await expectGivenUp(drain, OTHER)
  await expectGivenUp(drain, LARGE)
  await waitFor(() => drain.copying.get(`id of ${SMALL}`)?.hasBegun, { what: 'the next one to begin', everyMs: 5 })
})

test.each([
  ['large', LARGE, 4 * MiB, 2 * MiB],
  ['small', SMALL, MiB, 256 * KiB]
])('a %s file of a server that fell silent is given up within a second', async (_, name, bytesPerSecond, bytes) => {
  proxy.throttle(bytesPerSecond)
  const drain = copying([await claimed(name)])
  await readBytes(bytes)
  proxy.blackhole()
  await expectGivenUp(drain, name)
  await run
  proxy.restore()
  // Over the same connection: what was opened is closed as soon as the server hears of it.
  await waitFor(async () => (await openBelow(root)).length === 0, { what: 'its handles to be closed' })
})

test.each<[string, string, S3Operation, S3Fault]>([
  ['falls silent in the middle of a PUT', SMALL, 'put', { kind: 'silent', afterBytes: MiB }],
  ['falls silent in the middle of a part', LARGE, 'part', { kind: 'silent', afterBytes: 2 * MiB }],
  ['takes a part slowly', LARGE, 'part', { kind: 'slow', bytesPerSecond: 256 * KiB }],
  ['does not answer a completion', LARGE, 'complete', { kind: 'silent' }]
])('a file whose store %s is given up within a second', async (_, name, operation, fault) => {
  await expectGivenUp(await faulty(await claimed(name), operation, fault), name)
})

test('a file is given up within a second while a silent store is asked for the parts of an earlier worker', async () => {
  const file = await claimed(LARGE)
  const { partBytes } = planParts(file.size, store.limits)!
  const upload = { uploadId: 'of before', partBytes, size: file.size, mtime: file.mtime, parts: [] }
  await expectGivenUp(await faulty({ ...file, upload }, 'list', { kind: 'silent' }), LARGE)
})
