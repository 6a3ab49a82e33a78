import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { Outcome } from '../../domain/file.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import { filesystemStore } from '../../drivers/store/filesystem.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { Drain, type DrainPorts } from '../../workers/drain.ts'
import { MemoryBudget } from '../../workers/memory-budget.ts'

const MiB = 1024 * 1024

function claimed(id: number, size: number): FileRecord {
  const file = { _id: `file-${id}`, path: `/in/${id}`, size, mtime: 1000, version: 1, epoch: 1, upload: null }
  return { ...file, reservedKey: `in/${id}`, status: 'downloading', object: null } as unknown as FileRecord
}

/** A server whose files are read only when the test says so; it counts how many are open at once. */
function heldServer(sizes: Map<string, number>) {
  const closed = new AbortController()
  const held: (() => void)[] = []
  const peak = { files: 0, bytes: 0 }
  let [files, bytes] = [0, 0]
  const attributes = (path: string) => ({
    ...{ kind: 'file' as const, sizeBytes: sizes.get(path)!, mtimeSeconds: 1 },
    ...{ mode: 0o644, uid: 0, gid: 0 }
  })
  const open = async (path: string, { signal }: { signal?: AbortSignal } = {}) => {
    if (signal?.aborted) throw new IngestError('CANCELLED', 'cancelled')
    const size = sizes.get(path)!
    files++
    bytes += size
    peak.files = Math.max(peak.files, files)
    peak.bytes = Math.max(peak.bytes, bytes)
    return {
      stat: async () => attributes(path),
      readSmall: () =>
        new Promise<Buffer>((resolve, reject) => {
          signal?.addEventListener('abort', () => reject(new IngestError('CANCELLED', 'cancelled')), { once: true })
          held.push(() => resolve(Buffer.alloc(size)))
        }).finally(() => {
          files--
          bytes -= size
        }),
      close: async () => undefined
    }
  }
  const sftp = {
    latencyMs: 1,
    closed: closed.signal,
    maxChannels: 8,
    open,
    stat: async (path: string) => attributes(path)
  }
  return { sftp: sftp as unknown as Sftp, held, peak, closed }
}

describe('a stay at a server', () => {
  let folder: string
  let store: ObjectStore

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'longshore-drain-'))
    store = filesystemStore({ folder, bucket: 'files', baseUrl: 'http://localhost' } as never)
    await store.ensureReady()
  })
  afterEach(async () => {
    await store.close()
    await rm(folder, { recursive: true, force: true })
  })

  /** A drain over `count` files of one size, and what it asks of its ports. */
  function drainOf(count: number, size: number, concurrency: number) {
    const waiting = Array.from({ length: count }, (_, id) => claimed(id, size))
    const server = heldServer(new Map(waiting.map((file) => [file.path, size])))
    const calls = { claims: [] as number[], finished: [] as string[], batches: [] as number[], others: [] as Outcome[] }
    const ports: DrainPorts = {
      now: () => 0,
      claim: async (limit) => {
        calls.claims.push(limit)
        return waiting.splice(0, limit)
      },
      keepUpload: async () => undefined,
      finish: async (_file, outcome) => {
        calls.others.push(outcome)
      },
      finishEach: async (finished) => {
        calls.batches.push(finished.length)
        calls.finished.push(...finished.map(({ file }) => file._id))
      }
    }
    const stop = new AbortController()
    const drain = new Drain(server.sftp, store, ports, {
      checksum: 'crc32',
      concurrency,
      memory: new MemoryBudget(60 * MiB).join(),
      signal: stop.signal
    })
    return { ...server, drain, calls, waiting, stop }
  }

  /** Lets reads end, a few at a time, until the stay is over. */
  async function letGo(held: (() => void)[], running: Promise<number>): Promise<number> {
    let isOver = false
    const over = running.finally(() => {
      isOver = true
    })
    over.catch(() => undefined)
    while (!isOver) {
      for (const read of held.splice(0)) read()
      await new Promise(setImmediate)
    }
    return over
  }

  test('copies every file once, never more side by side than there are places, and finishes them in batches', async () => {
    const { drain, calls, held, peak } = drainOf(100, 1000, 8)
    expect(await letGo(held, drain.run())).toBe(100)
    expect(calls.finished.toSorted()).toEqual(Array.from({ length: 100 }, (_, id) => `file-${id}`).toSorted())
    expect(peak.files).toBe(8)
    // One by one would be a hundred; how many there are is a matter of how late timers come.
    expect(calls.batches.length).toBeLessThan(90)
    expect(drain.copying.size).toBe(0)
  })

  test('holds no more bytes at once than it may, whatever the sizes', async () => {
    const { drain, held, peak } = drainOf(40, 5 * MiB, 64)
    expect(await letGo(held, drain.run())).toBe(40)
    expect(peak.bytes).toBeLessThanOrEqual(48 * MiB)
    expect(peak.bytes).toBeGreaterThanOrEqual(40 * MiB)
  })

  test('claims for all places at once where files are small, and few more than it can begin', async () => {
    const { drain, calls, held, waiting } = drainOf(500, 1000, 16)
    const running = drain.run()
    while (held.length < 16) await new Promise(setImmediate)
    expect(drain.copying.size).toBeLessThanOrEqual(48)
    drain.leave()
    const copied = await letGo(held, running)
    expect(copied + waiting.length).toBe(500)
    expect(calls.finished.length).toBe(copied)
  })

  test('hands all files back when the connection is lost, and fails with its reason', async () => {
    const { drain, calls, closed, held } = drainOf(8, 1000, 8)
    const running = drain.run()
    while (held.length < 8) await new Promise(setImmediate)
    const reason = new IngestError('SFTP_CONNECTION_LOST', 'the line was cut')
    closed.abort(reason)
    await expect(running).rejects.toBe(reason)
    expect(calls.finished).toEqual([])
    expect(calls.others.length).toBe(8)
    expect(drain.copying.size).toBe(0)
  })

  test('gives up one file at once when its lease is lost, and no other', async () => {
    const { drain, calls, held } = drainOf(3, 1000, 8)
    const running = drain.run()
    while (held.length < 3) await new Promise(setImmediate)
    drain.giveUp('file-1', 'another worker holds the file')
    expect(await letGo(held, running)).toBe(3)
    expect(calls.finished.toSorted()).toEqual(['file-0', 'file-2'])
    expect(calls.others).toEqual([])
  })

  test('begins nothing when it was stopped while it claimed', async () => {
    const { drain, calls, stop } = drainOf(4, 1000, 8)
    const aborted = once(stop.signal, 'abort')
    const running = drain.run()
    stop.abort(new IngestError('CANCELLED', 'the worker is stopping'))
    await aborted
    await running
    expect(calls.finished).toEqual([])
  })
})
