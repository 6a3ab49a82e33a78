/** What the copying of one file asks of a real OpenSSH: which looks, how many round trips, how many ranges side by side. */
import { randomBytes } from 'node:crypto'
import { open, realpath, rename, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { FileRecord, UploadState } from '../../domain/file-record.ts'
import { type CopyJob, copyFile } from '../../drivers/copy.ts'
import { lanesOf } from '../../drivers/lanes.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import { filesystemStore } from '../../drivers/store/filesystem.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { claimedFile, copyJob } from '../support/copy-job.ts'
import { starvedMs } from '../support/cpu-time.ts'
import { connectTo, type Sshd, startSshd } from '../support/openssh.ts'
import { temporaryFolder } from '../support/process.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'
import { waitFor } from '../support/wait.ts'

const KiB = 1024
const MiB = 1024 * KiB
const PART_BYTES = 16 * MiB
/** A second of the past, so that whatever is written now has another one. */
const LONG_AGO_S = 1_700_000_000

let sshd: Sshd
let root: string
let proxy: FaultyProxy
let sftp: Sftp
let store: ObjectStore
let folder: Awaited<ReturnType<typeof temporaryFolder>>

beforeAll(async () => {
  sshd = await startSshd()
  root = await realpath(sshd.root)
})
afterAll(() => sshd?.stop())

beforeEach(async () => {
  proxy = await startProxy({ target: { host: sshd.host, port: sshd.port } })
  folder = await temporaryFolder('copy')
  store = filesystemStore({ folder: folder.path, bucket: 'copies' })
  await store.ensureReady()
})
afterEach(async () => {
  await sftp?.close()
  await proxy.close()
  await folder.remove()
})

async function connect(): Promise<void> {
  sftp = await connectTo({ ...sshd, port: proxy.port })
}

const copying = (file: FileRecord, more: Partial<CopyJob> = {}) => copyFile(sftp, store, copyJob(file, more))

async function newFile(name: string, content: Buffer): Promise<string> {
  const path = join(root, name)
  await writeFile(path, content)
  await utimes(path, LONG_AGO_S, LONG_AGO_S)
  return path
}

describe('a large file', () => {
  test('that is another one by the time it is opened is not read', async () => {
    await connect()
    const path = await newFile('replaced', randomBytes(20 * MiB))
    const another = await newFile('another', randomBytes(30 * MiB))
    const file = await claimedFile(path)
    const { createUpload } = store
    store = {
      ...store,
      createUpload: async (...wanted) => {
        await rename(another, path)
        return createUpload(...wanted)
      }
    }
    let read = 0
    const outcome = await copying(file, { onBytes: (bytes) => (read += bytes) })
    expect(outcome).toMatchObject({ kind: 'changed', size: 30 * MiB })
    expect(read).toBe(0)
  })

  test('that was rewritten under its handles is not stored, though its path shows one of the same size and time', async () => {
    await connect()
    proxy.throttle(16 * MiB)
    const path = await newFile('rewritten', randomBytes(48 * MiB))
    const decoy = await newFile('decoy', randomBytes(48 * MiB))
    const outcome = copying(await claimedFile(path))
    await waitFor(() => proxy.received > 4 * MiB, { what: 'the copy to be under way', everyMs: 5 })
    const handle = await open(path, 'r+')
    await rename(decoy, path)
    await handle.write(randomBytes(MiB), 0, MiB, 40 * MiB)
    await handle.close()
    expect(await stat(path)).toMatchObject({ size: 48 * MiB, mtimeMs: LONG_AGO_S * 1000 })
    expect(await outcome).toMatchObject({ kind: 'changed', size: 48 * MiB })
    expect(await store.head('copy')).toBeNull()
    expect(await store.listUploads('copy')).toEqual([])
  })

  test('is cut in halves once a range before it was fast, and gone on with in these over a line that nothing is known of', async () => {
    await connect()
    const before = await lanesOf(sftp).take(new AbortController().signal)
    before.asked(1024 * MiB)
    before.done()
    const file = await claimedFile(await newFile('halves', randomBytes(40 * MiB)))
    const keepUpload = async (upload: UploadState | null) => {
      file.upload = upload && structuredClone(upload)
    }
    const { uploadPart } = store
    const sent: number[] = []
    const firstIsStored = Promise.withResolvers<void>()
    store = {
      ...store,
      uploadPart: async (...part) => {
        const [, , { number, sizeBytes }] = part
        sent.push(sizeBytes)
        if (number === 2 && sent.length < 3) {
          await firstIsStored.promise
          throw new IngestError('STORE_UNAVAILABLE', 'away')
        }
        return uploadPart(...part).finally(firstIsStored.resolve)
      }
    }
    await expect(copying(file, { keepUpload })).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
    await sftp.close()
    await connect()
    expect(await copying(file, { keepUpload })).toMatchObject({ kind: 'stored', object: { size: 40 * MiB } })
    expect(sent).toEqual([20 * MiB, 20 * MiB, 20 * MiB])
  })

  test('has fewer ranges on their way once some took longer than ten seconds over a slow line', async () => {
    await connect()
    const path = await newFile('slow', Buffer.alloc(0))
    await truncate(path, 12 * PART_BYTES)
    const { uploadPart } = store
    const underWay = { now: 0, most: 0, ended: 0 }
    store = {
      ...store,
      uploadPart: async (...part) => {
        underWay.now++
        underWay.most = Math.max(underWay.most, underWay.now)
        const stored = await uploadPart(...part)
        underWay.now--
        underWay.ended++
        return stored
      }
    }
    proxy.throttle(2.25 * MiB)
    const enough = new AbortController()
    const outcome = copying(await claimedFile(path), { signal: enough.signal }).catch((error: Error) => error)
    await waitFor(() => underWay.ended > 0, { what: 'the first range to end', everyMs: 5 })
    // Faster, so that the next ones come soon; twice as many as there are lanes, four by now, would begin.
    proxy.throttle(8 * MiB)
    await waitFor(() => underWay.now <= 4, { what: 'the others of the first ranges to end', everyMs: 5 })
    underWay.most = underWay.now
    const { ended } = underWay
    await waitFor(() => underWay.ended >= ended + 3, { what: 'three ranges more to end', everyMs: 5 })
    expect(underWay.most).toBeLessThanOrEqual(4)
    enough.abort(new Error('enough'))
    await outcome
  })
})

test('a small file costs two round trips, with its OPEN, its READs and all looks at it', async () => {
  await connect()
  const roundTripMs = 400
  proxy.delay(roundTripMs)
  const path = await newFile('small', randomBytes(MiB))
  const starved = starvedMs()
  const start = performance.now()
  expect(await copying(await claimedFile(path))).toMatchObject({ kind: 'stored' })
  const trips = (performance.now() - start - starved()) / roundTripMs
  expect(trips).toBeGreaterThan(1.9)
  expect(trips).toBeLessThan(2.9)
})
