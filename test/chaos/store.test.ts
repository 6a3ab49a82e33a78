import { spawnSync } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { rm, statfs, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals'
import { type Embedded, startEmbedded } from '../support/embedded.ts'
import { waitFor } from '../support/longshore.ts'
import { storedPartBytes } from '../support/places.ts'
import type { Json } from '../support/rest.ts'
import type { S3Operation } from '../support/s3-proxy.ts'
import { writeSource } from '../support/source-files.ts'

const MiB = 1024 * 1024
const PART_BYTES = 16 * MiB
const PARTS = 4
const LARGE_BYTES = PARTS * PART_BYTES
/** Two parts: the disk holds what all tests store. */
const MIDDLING_BYTES = 2 * PART_BYTES
const DISK_BYTES = 640 * MiB
/** Of the parts that are on their way when one of them fails. */
const IN_FLIGHT_BYTES = 4 * PART_BYTES

/** A disk of its own that can be filled, where this is root and may mount one; else an ordinary folder. */
const disk = mkdtempSync(join(tmpdir(), 'longshore-disk-'))
const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES}`, 'longshore-test', disk])
const hasDisk = mounted.status === 0

let longshore: Embedded

beforeAll(async () => {
  longshore = await startEmbedded({ store: 'minio', minioDir: join(disk, 'minio') })
})
afterEach(() => {
  longshore.s3!.fault = null
  longshore.s3!.release()
})
afterAll(async () => {
  await longshore?.stop()
  if (hasDisk) spawnSync('umount', ['-l', disk])
  await rm(disk, { recursive: true, force: true })
})

const put = (path: string, sizeBytes: number) => writeSource(longshore.root, path, sizeBytes)
const statusesOf = ({ history }: Json) => history.map(({ status }: Json) => status)
const seen = (operation: S3Operation) => longshore.s3!.seen.byOperation[operation] ?? 0

/** The first request of each kind meets the fault, no other. */
function once(operations: S3Operation[], fault: Parameters<typeof setFault>[0]): void {
  const left = new Set(operations)
  setFault(fault, (asked) => left.delete(asked))
}

function setFault(
  fault: ReturnType<NonNullable<NonNullable<Embedded['s3']>['fault']>>,
  meets: (operation: S3Operation) => boolean
): void {
  longshore.s3!.fault = ({ operation }) => (meets(operation) ? fault : null)
}

/** Until the file has been tried in vain at least so often, and what it met last is of this type and message. */
const refused = (path: string, error: RegExp, times: number) =>
  waitFor(
    async () => {
      const file = await longshore.file(path)
      const tries = file?.history.filter(({ status }: Json) => status === 'downloading').length ?? 0
      return error.test(`${file?.error?.type}: ${file?.error?.message}`) && tries >= times && file.status === 'pending'
        ? file
        : null
    },
    { what: `${path} to wait for the store`, explain: longshore.longshore.output }
  )

describe('a store', () => {
  test('that falls silent in the middle of a part costs that part: the lease is kept, neighbours go on', async () => {
    once(['part', 'put'], { kind: 'silent', afterBytes: 2 * MiB })
    const received = longshore.proxy.received
    await put('silent', LARGE_BYTES)
    await put('mute', 3 * MiB)
    await waitFor(() => longshore.s3!.seen.faults === 2, { what: 'the silence', everyMs: 5 })
    await put('neighbour', 1000)
    await longshore.becomes('neighbour', 'notified')
    for (const name of ['silent', 'mute']) expect((await longshore.file(name)).status).toBe('downloading')
    // It had nothing stored that would make up for an attempt.
    expect((await longshore.becomes('mute', 'notified')).attempts).toBe(1)
    const file = await longshore.becomes('silent', 'notified')
    expect(statusesOf(file)).toEqual(['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified'])
    expect(file.history[2].reason).toMatch(/silent for 30000 ms/)
    expect(file.attempts).toBe(1)
    expect(longshore.proxy.received - received).toBeLessThan(LARGE_BYTES + IN_FLIGHT_BYTES + 2 * 3 * MiB)
    expect(seen('part')).toBeLessThan(2 * PARTS)
    expect(await longshore.problems()).toEqual([])
  })

  test('that answers a part with 500 or 503 is sent that file again from its parts, and no attempt is used up', async () => {
    const before = { parts: seen('part'), received: longshore.proxy.received }
    const fates = new Map([
      ['failed', 500],
      ['slowed', 503]
    ])
    longshore.s3!.fault = ({ operation, path, partNumber }) => {
      const name = path.slice(path.lastIndexOf('/') + 1)
      const status = operation === 'part' && partNumber === 2 ? fates.get(name) : undefined
      if (status) fates.delete(name)
      return status ? { kind: 'answer', status, code: status === 503 ? 'SlowDown' : 'InternalError' } : null
    }
    for (const name of [...fates.keys()]) await put(name, MIDDLING_BYTES)
    for (const [name, reason] of [['failed', /InternalError/] as const, ['slowed', /SlowDown/] as const]) {
      const file = await longshore.becomes(name, 'notified')
      expect(statusesOf(file)).toEqual(['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified'])
      expect(file.history[2].reason).toMatch(reason)
      expect(file.attempts).toBe(1)
    }
    expect(fates.size).toBe(0)
    // Of each file its second part again, and the first one where that was still on its way.
    expect(seen('part') - before.parts).toBeLessThanOrEqual(2 * 4)
    expect(longshore.proxy.received - before.received).toBeLessThan(4.1 * MIDDLING_BYTES)
    expect(await longshore.problems()).toEqual([])
  })

  test('that a byte reaches as another refuses it, and is sent it again', async () => {
    once(['part', 'put'], { kind: 'flip' })
    const { faults } = longshore.s3!.seen
    const names = { large: MIDDLING_BYTES, small: 3 * MiB }
    for (const [name, sizeBytes] of Object.entries(names)) await put(`flipped/${name}`, sizeBytes)
    for (const name of Object.keys(names)) {
      const file = await longshore.becomes(`flipped/${name}`, 'notified')
      expect(statusesOf(file)).toEqual(['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified'])
      expect(file.history[2].reason).toMatch(/checksum|digest/i)
      expect(file.attempts).toBeLessThanOrEqual(2)
    }
    expect(longshore.s3!.seen.faults - faults).toBe(2)
    expect(await longshore.problems()).toEqual([])
  })

  test('that has lost the upload, its parts with it, is sent the file anew', async () => {
    const { store, proxy, root } = longshore
    const key = `partner${root}/aborted`
    proxy.throttle(12 * MiB)
    await put('aborted', 3 * PART_BYTES)
    await waitFor(async () => (await storedPartBytes(store!, key)) > 0, {
      what: 'the first part',
      everyMs: 20,
      explain: longshore.longshore.output
    })
    for (const { uploadId } of await store!.listUploads(key)) await store!.abortUpload(key, uploadId)
    proxy.throttle(null)
    const file = await longshore.becomes('aborted', 'notified')
    expect(statusesOf(file).filter((status: string) => status === 'downloading').length).toBeGreaterThan(1)
    expect(await longshore.problems()).toEqual([])
  })

  test('that answers a completion with an error inside a 200 is not believed, and asked again', async () => {
    const completions = seen('complete')
    let hasFailed = false
    const sentParts: (number | null)[] = []
    longshore.s3!.fault = ({ operation, partNumber }) => {
      if (operation === 'part') sentParts.push(partNumber)
      if (operation !== 'complete' || hasFailed) return null
      hasFailed = true
      return { kind: 'answer', status: 200, code: 'InternalError' }
    }
    await put('completed', LARGE_BYTES)
    const file = await longshore.becomes('completed', 'notified')
    expect(statusesOf(file)).toEqual(['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified'])
    expect(file.history[2].reason).toMatch(/InternalError/)
    expect(file.attempts).toBe(1)
    expect(seen('complete') - completions).toBe(2)
    // The parts that are stored are not sent again; how many they are depends on the speed of the lanes before.
    expect(sentParts.length).toBeGreaterThan(1)
    expect(new Set(sentParts).size).toBe(sentParts.length)
    expect(await longshore.problems()).toEqual([])
  })

  test('that says it is full lets copies wait without a hurry, and they go on when there is room', async () => {
    const full = { kind: 'answer', status: 507, code: 'XMinioStorageFull' } as const
    setFault(full, (operation) => ['put', 'part', 'create'].includes(operation))
    const faults = longshore.s3!.seen.faults
    await put('no-room/large', LARGE_BYTES)
    for (let index = 0; index < 5; index++) await put(`no-room/${index}`, 1000)
    const waiting = await refused('no-room/large', /STORE_FULL/, 3)
    expect(waiting.attempts).toBeLessThanOrEqual(1)
    const tries = waiting.history.filter(({ status }: Json) => status === 'downloading').length
    // Six files that are tried about as often as this one, not in a loop.
    expect(longshore.s3!.seen.faults - faults).toBeLessThan(6 * (tries + 2))
    longshore.s3!.fault = null
    for (const name of ['large', 0, 1, 2, 3, 4]) await longshore.becomes(`no-room/${name}`, 'notified')
    expect(await longshore.problems()).toEqual([])
  })

  // As root, or where this user may mount; a continuous integration that is neither has the test above.
  ;(hasDisk ? test : test.skip)('whose disk is full lets copies wait, and they go on when there is room', async () => {
    const filler = join(disk, 'filler')
    const { bavail, bsize } = await statfs(disk)
    await writeFile(filler, Buffer.alloc(bavail * bsize - 24 * MiB, 1))
    await put('disk/large', LARGE_BYTES)
    // A connection that is reset may hide the reason of one refusal.
    const waiting = await refused('disk/large', /^STORE_(FULL|UNAVAILABLE): .*(space|full)/i, 2)
    expect(waiting.attempts).toBeLessThanOrEqual(1)
    await truncate(filler, 0)
    await put('disk/small', 1000)
    for (const name of ['large', 'small']) await longshore.becomes(`disk/${name}`, 'notified')
    expect(await longshore.problems()).toEqual([])
  })
})
