import { afterEach, describe, expect, test } from '@jest/globals'
import { crc32Hex } from '../../domain/crc32.ts'
import { IngestError } from '../../domain/errors.ts'
import type { Outcome } from '../../domain/file.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { Drain, SELF_STOP_MS } from '../../workers/drain.ts'
import { MemoryBudget } from '../../workers/memory-budget.ts'
import { waitFor } from '../support/wait.ts'

const MiB = 1024 * 1024
const HELD_BYTES = 48 * MiB
const BIG = 5 * MiB

/** A claimed file of zeros. */
function claimed(name: string, size = 4): FileRecord {
  return {
    _id: name,
    path: `/${name}`,
    size,
    mtime: 1000,
    epoch: 1,
    version: 1,
    reservedKey: name,
    upload: null
  } as FileRecord
}

/** A stay with a server and a store of this process; reads wait while `isHeld`. */
function stay(waiting: FileRecord[], concurrency = 64) {
  const closed = new AbortController()
  const stop = new AbortController()
  const outcomes: Record<string, Outcome> = {}
  const world = {
    isHeld: false,
    now: 0,
    claims: [] as number[],
    put: [] as string[],
    reading: 0,
    mostReading: 0,
    claimError: null as Error | null,
    storeError: null as Error | null
  }
  let release = () => {}
  let held = new Promise<void>(() => {})

  const sftp = {
    latencyMs: 1,
    maxChannels: 10,
    readBytes: 128 * 1024,
    closed: closed.signal,
    stat: async (path: string) => attributesOf(path),
    open: async (path: string) => ({
      stat: async () => attributesOf(path),
      close: async () => undefined,
      async readSmall(sizeBytes: number, { signal }: { signal: AbortSignal }) {
        world.reading += sizeBytes
        world.mostReading = Math.max(world.mostReading, world.reading)
        const broken = new Promise<never>((_, reject) => {
          const fail = () => reject(signal.reason)
          if (signal.aborted) fail()
          else signal.addEventListener('abort', fail, { once: true })
        })
        try {
          await Promise.race([broken, world.isHeld ? held : new Promise((resolve) => setImmediate(resolve))])
          return Buffer.alloc(sizeBytes)
        } finally {
          world.reading -= sizeBytes
        }
      }
    })
  } as unknown as Sftp
  const all = [...waiting]
  const attributesOf = (path: string) => {
    const { size } = all.find((file) => file.path === path)!
    return { kind: 'file', sizeBytes: size, mtimeSeconds: 1, mode: 0o644, uid: 0, gid: 0 }
  }

  const store = {
    bucket: 'bucket',
    limits: { minPartBytes: BIG, maxPartBytes: 1024 * MiB, maxParts: 10_000, maxObjectBytes: 1024 ** 4 },
    url: (key: string) => `http://store/${key}`,
    head: async () => null,
    listUploads: async () => [],
    async put(key: string, body: Buffer, { crc32, metadata }: { crc32: string; metadata: Record<string, string> }) {
      if (world.storeError) throw world.storeError
      world.put.push(key)
      return { key, sizeBytes: body.length, etag: key, crc32, metadata }
    }
  } as unknown as ObjectStore

  const finish = async (file: FileRecord, outcome: Outcome) => {
    outcomes[file._id] = outcome
  }
  const drain = new Drain(
    sftp,
    store,
    {
      now: () => world.now,
      async claim(limit) {
        world.claims.push(limit)
        if (world.claimError) throw world.claimError
        return waiting.splice(0, limit)
      },
      keepUpload: async () => undefined,
      finish,
      async finishEach(finished) {
        for (const { file, outcome } of finished) await finish(file, outcome)
      }
    },
    { checksum: 'crc32', concurrency, memory: new MemoryBudget(60 * MiB).join(), signal: stop.signal }
  )
  return {
    drain,
    world,
    outcomes,
    stop,
    closed,
    hold() {
      world.isHeld = true
      held = new Promise((resolve) => {
        release = resolve
      })
    },
    letGo() {
      world.isHeld = false
      release()
    },
    kinds: () => Object.fromEntries(Object.entries(outcomes).map(([id, { kind }]) => [id, kind]))
  }
}

const reached = (condition: () => boolean, what: string) => waitFor(condition, { timeoutMs: 5000, everyMs: 1, what })

describe('a stay that ends early, or copies for nobody', () => {
  let letGo = () => {}
  afterEach(() => letGo())

  test('proves what it stored by the checksum of what it read', async () => {
    const { drain, outcomes } = stay([claimed('zeros', 4)])
    await drain.run()
    expect(outcomes.zeros).toMatchObject({
      object: { size: 4, checksum: { algorithm: 'crc32', value: crc32Hex(0x2144df1c) } }
    })
  })

  test('learns from what it claimed how many more of the like would fit', async () => {
    const files = Array.from({ length: 40 }, (_, index) => claimed(`big-${index}`, BIG))
    const { drain, world } = stay(files)
    await drain.run()
    expect(Math.max(...world.claims)).toBeLessThanOrEqual(Math.floor(HELD_BYTES / BIG))
  })

  test('claims nothing more once it leaves, and ends what is under way', async () => {
    const files = Array.from({ length: 30 }, (_, index) => claimed(`big-${index}`, BIG))
    const one = stay(files)
    letGo = one.letGo
    one.hold()
    const run = one.drain.run()
    await reached(() => one.world.reading > 0, 'a read')
    one.drain.leave()
    const underWay = one.drain.copying.size
    one.letGo()
    expect(await run).toBe(underWay)
    expect(files).toHaveLength(30 - underWay)
  })

  test('gives a cancelled file up at once though the server is silent, and writes nothing for it', async () => {
    const one = stay([claimed('cancelled'), claimed('other')])
    letGo = one.letGo
    one.hold()
    const run = one.drain.run()
    await reached(() => one.world.reading > 0, 'a read')
    const cancelledAt = performance.now()
    one.drain.giveUp('cancelled', 'cancelled')
    await reached(() => !one.drain.copying.has('cancelled'), 'the file to be given up')
    // On a slow machine; it would be half a minute if the silence itself had to end.
    expect(performance.now() - cancelledAt).toBeLessThan(10_000)
    one.letGo()
    await run
    expect(one.world.put).toEqual(['other'])
    expect(one.kinds()).toEqual({ other: 'stored' })
  })

  test('writes nothing for a file whose lease was not renewed in time', async () => {
    const one = stay([claimed('late')])
    letGo = one.letGo
    one.hold()
    const run = one.drain.run()
    await reached(() => one.world.reading > 0, 'a read')
    one.world.now += SELF_STOP_MS + 1
    one.letGo()
    await run
    expect(one.world.put).toEqual([])
    expect(one.kinds()).toEqual({})
  })

  test('ends what is under way when nothing can be claimed any more', async () => {
    const one = stay([claimed('first')])
    one.hold()
    letGo = one.letGo
    const run = one.drain.run()
    await reached(() => one.world.reading > 0, 'a read')
    one.world.claimError = new Error('files is away')
    one.letGo()
    expect(await run).toBe(1)
    expect(one.kinds()).toEqual({ first: 'stored' })
  })

  test('counts a lost connection for the files that it was reading, not for those that waited for their turn', async () => {
    const one = stay(
      ['first', 'second', 'third', 'fourth'].map((name) => claimed(name)),
      2
    )
    letGo = one.letGo
    one.hold()
    const run = one.drain.run()
    await reached(() => one.world.reading === 8 && one.drain.copying.size === 4, 'two reads, and two that wait')
    const lost = new IngestError('SFTP_CONNECTION_LOST', 'the line was cut')
    one.closed.abort(lost)
    await expect(run).rejects.toBe(lost)
    expect(one.kinds()).toEqual({ first: 'lost', second: 'lost', third: 'deferred', fourth: 'deferred' })
  })

  test('hands files back and fails when the store is away', async () => {
    const one = stay([claimed('first'), claimed('second')])
    one.world.storeError = new IngestError('STORE_UNAVAILABLE', 'the store is away')
    await expect(one.drain.run()).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
    expect(one.kinds()).toEqual({ first: 'deferred', second: 'deferred' })
  })
})
