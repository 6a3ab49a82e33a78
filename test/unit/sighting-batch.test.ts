import { describe, expect, test } from '@jest/globals'
import type { Sighting } from '../../domain/readiness.ts'
import { KnownFiles } from '../../workers/known-files.ts'
import { type RegisterAnswer, SightingBatch } from '../../workers/sighting-batch.ts'

const sighting = (number: number): Sighting => ({ path: `/${number}`, size: 1, mtime: 0, skip: null })

/** `files`, which answers one batch after the other, each when it is told to. */
function slowFiles() {
  const sizes: number[] = []
  const waiting: PromiseWithResolvers<void>[] = []
  const register = async (sightings: Sighting[]): Promise<RegisterAnswer> => {
    sizes.push(sightings.length)
    const asked = Promise.withResolvers<void>()
    waiting.push(asked)
    await asked.promise
    const none = { settling: 0, skipped: 0, atRest: sightings.map((_, index) => index), disturbed: [] }
    return { ...none, new: sightings.length, pending: sightings.length }
  }
  return { sizes, waiting, register }
}

const settled = () => new Promise((resolve) => setImmediate(resolve))

/** Adds until it is told to wait; answers that, and how many it added. */
function fill(batch: SightingBatch): { added: number; wait: Promise<void> } {
  for (let added = 1; added < 100_000; added++) {
    const wait = batch.add(sighting(added))
    if (wait) return { added, wait }
  }
  throw new Error('nothing held it back')
}

describe('SightingBatch', () => {
  test('begins with short batches, lists no more than four ahead, and registers one after the other', async () => {
    const { sizes, waiting, register } = slowFiles()
    const batch = new SightingBatch(register)
    const { added, wait } = fill(batch)
    await settled()
    expect(sizes).toEqual([64])
    expect(added).toBe(64 + 128 + 256 + 500 + 500)
    let mayGoOn = false
    void wait.then(() => {
      mayGoOn = true
    })
    await settled()
    expect(mayGoOn).toBe(false)
    waiting[0]!.resolve()
    await settled()
    expect([mayGoOn, sizes]).toEqual([true, [64, 128]])
    const flushed = batch.flush()
    for (let index = 1; index < 5; index++) {
      waiting[index]!.resolve()
      await settled()
    }
    await flushed
    expect(sizes).toEqual([64, 128, 256, 500, 500])
    expect(batch.counts.pending).toBe(added)
  })

  test('tells whoever adds or flushes of a batch that failed, registers none after it, and knows nothing any more', async () => {
    const { sizes, waiting, register } = slowFiles()
    const known = new KnownFiles()
    const batch = new SightingBatch(register, known)
    const { wait } = fill(batch)
    await settled()
    waiting[0]!.reject(new Error('away'))
    await expect(wait).rejects.toThrow('away')
    await expect(batch.flush()).rejects.toThrow('away')
    await batch.end()
    expect(sizes).toEqual([64])
    expect(known.result(true).length).toBe(0)
  })

  test('that is ended waits for the batch under way, and registers no other', async () => {
    const { sizes, waiting, register } = slowFiles()
    const known = new KnownFiles()
    const batch = new SightingBatch(register, known)
    fill(batch)
    await settled()
    let hasEnded = false
    const ended = batch.end().then(() => {
      hasEnded = true
    })
    await settled()
    expect(hasEnded).toBe(false)
    waiting[0]!.resolve()
    await ended
    expect(sizes).toEqual([64])
    expect(known.result(false).length).toBe(64)
  })
})
