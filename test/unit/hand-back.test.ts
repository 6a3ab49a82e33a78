import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { Outcome } from '../../domain/file.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import type { Sftp, SftpFile } from '../../drivers/sftp/sftp.ts'
import { filesystemStore } from '../../drivers/store/filesystem.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { Drain, type DrainPorts } from '../../workers/drain.ts'
import { MemoryBudget } from '../../workers/memory-budget.ts'
import { memorySource, memorySourceMtime } from '../support/memory-source.ts'
import { waitFor } from '../support/wait.ts'

const MiB = 1024 * 1024
const PART_BYTES = 16 * MiB
/** Parts on their way at a near server. */
const LANES = 2

describe('a stay whose worker stops', () => {
  let folder: string
  let store: ObjectStore

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'longshore-hand-back-'))
    store = filesystemStore({ folder, bucket: 'files', baseUrl: 'http://localhost' } as never)
    await store.ensureReady()
  })
  afterEach(async () => {
    await store.close()
    await rm(folder, { recursive: true, force: true })
  })

  /** Files of one size; each read of one, or of a part, waits in its middle until it is let go. The clock stands still. */
  function copying({ files, size, concurrency = 64 }: { files: number; size: number; concurrency?: number }) {
    const { sftp } = memorySource(Buffer.alloc(size))
    const held: (() => void)[] = []
    let isHeld = true
    const world = { begun: 0, atMiddle: 0, kept: [] as number[], outcomes: [] as Outcome[] }
    const stop = new AbortController()
    const hold = (signal?: AbortSignal) => {
      world.atMiddle++
      const middle = isHeld ? new Promise<void>((resolve) => held.push(resolve)) : null
      return Promise.race([middle, broken(signal)])
    }
    const slow = (file: SftpFile): SftpFile => ({
      ...file,
      async *blocks(start, length, options) {
        world.begun++
        let read = 0
        for await (const block of file.blocks(start, length, options)) {
          yield block
          read += block.bytes.length
          if (read === length / 2) await hold(options?.signal)
        }
      },
      async readSmall(sizeBytes, options) {
        world.begun++
        await hold(options?.signal)
        return file.readSmall(sizeBytes, options)
      }
    })
    const server = { ...sftp, open: async (path: string) => slow(await sftp.open(path)) } as Sftp
    const waiting = Array.from({ length: files }, (_, id) => {
      const file = {
        _id: `file-${id}`,
        path: `/${id}`,
        size,
        mtime: memorySourceMtime,
        version: 1,
        epoch: 1,
        upload: null
      }
      return { ...file, reservedKey: `${id}`, status: 'downloading', object: null } as unknown as FileRecord
    })
    const claims = { whenAsked: async () => {} }
    const ports: DrainPorts = {
      now: () => 0,
      async claim(limit) {
        await claims.whenAsked()
        return waiting.splice(0, limit)
      },
      keepUpload: async (_file, upload) => void world.kept.push(...(upload?.parts ?? []).map(({ number }) => number)),
      finish: async (_file, outcome) => void world.outcomes.push(outcome),
      finishEach: async (finished) => void world.outcomes.push(...finished.map(({ outcome }) => outcome))
    }
    const memory = new MemoryBudget(60 * MiB).join()
    const drain = new Drain(server, store, ports, { checksum: 'crc32', concurrency, memory, signal: stop.signal })
    const kinds = (kind: Outcome['kind']) => world.outcomes.filter((outcome) => outcome.kind === kind).length
    const letGo = (count = Number.POSITIVE_INFINITY) => {
      isHeld = count < held.length
      for (const goOn of held.splice(0, count)) goOn()
    }
    return { drain, world, waiting, stop, claims, kinds, letGo }
  }

  test('begins no part of a large file any more, and keeps all that were on their way', async () => {
    const { drain, world, letGo } = copying({ files: 1, size: 8 * PART_BYTES })
    const run = drain.run()
    await waitFor(() => world.atMiddle === LANES, { what: 'the parts to be on their way' })
    drain.handBack()
    letGo()
    await run
    expect(world.begun).toBe(LANES)
    expect(world.kept.toSorted()).toEqual([1, 2])
    expect(world.outcomes).toMatchObject([{ kind: 'deferred', error: { message: 'handed back at the end of a part' } }])
  })

  test('begins parts for a while where it only has to leave: the file may have been nearly done', async () => {
    const { drain, world, letGo } = copying({ files: 1, size: 8 * PART_BYTES })
    const run = drain.run()
    await waitFor(() => world.atMiddle === LANES, { what: 'the parts to be on their way' })
    drain.leave()
    letGo()
    await run
    expect(world.outcomes).toMatchObject([{ kind: 'stored' }])
  })

  test('stores a large file of which all parts were on their way', async () => {
    const { drain, world, letGo } = copying({ files: 1, size: LANES * PART_BYTES })
    const run = drain.run()
    await waitFor(() => world.atMiddle === LANES, { what: 'the parts to be on their way' })
    drain.handBack()
    letGo()
    await run
    expect(world.outcomes).toMatchObject([{ kind: 'stored' }])
  })

  test('hands back at once what waits for its turn, while what has begun goes on to its end', async () => {
    const { drain, world, kinds, letGo } = copying({ files: 100, size: 1000, concurrency: 8 })
    const run = drain.run()
    await waitFor(() => world.atMiddle === 8, { what: 'the reads' })
    // It knows now how small they are, and claims some to wait.
    letGo(2)
    await waitFor(() => world.atMiddle === 10 && drain.copying.size > 8, { what: 'more than there are places for' })
    const waited = drain.copying.size - 8
    drain.handBack()
    await waitFor(() => drain.copying.size === 8, { what: 'the others to be handed back' })
    expect(kinds('deferred')).toBe(waited)
    expect(world.outcomes.at(-1)).toMatchObject({ error: { message: 'handed back before it was begun' } })
    letGo()
    await run
    expect(world.begun).toBe(10)
    expect(kinds('stored')).toBe(10)
  })

  test('hands back what it was about to claim', async () => {
    const { drain, world, waiting, claims, kinds } = copying({ files: 4, size: 1000 })
    claims.whenAsked = async () => drain.handBack()
    await drain.run()
    expect(waiting).toEqual([])
    expect(kinds('deferred')).toBe(4)
    expect(world.begun).toBe(0)
  })

  test('keeps the parts that had ended where the others are cut', async () => {
    const { drain, world, stop, letGo } = copying({ files: 1, size: 8 * PART_BYTES })
    const run = drain.run()
    await waitFor(() => world.atMiddle === LANES, { what: 'the parts to be on their way' })
    drain.handBack()
    letGo(1)
    await waitFor(() => world.kept.length === 1, { what: 'a part to end' })
    stop.abort(new IngestError('CANCELLED', 'no time is left'))
    await run
    expect(world.kept).toHaveLength(1)
    expect(world.outcomes).toMatchObject([{ kind: 'deferred', error: { message: 'no time is left' } }])
  })
})

function broken(signal?: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal?.aborted) reject(signal.reason)
    else signal?.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}
