import { describe, expect, test } from '@jest/globals'
import type { Collection, Document } from '../../drivers/db/collection.ts'
import { mutate } from '../../drivers/db/mutate.ts'
import { memoryCollection } from '../support/memory-collection.ts'

interface Counter extends Document {
  count: number
}

async function counters(): Promise<Collection<Counter>> {
  const collection = memoryCollection<Counter>()
  await collection.insertNew([{ _id: 'a', revision: 0, count: 0 }])
  return collection
}

describe('mutate', () => {
  test('no change of many writers at once is lost', async () => {
    const collection = await counters()
    const more = (counter: Counter) => ({ ...counter, count: counter.count + 1 })
    const results = await Promise.all(Array.from({ length: 15 }, () => mutate(collection, 'a', more)))
    expect(await collection.findByIds(['a'])).toEqual([{ _id: 'a', revision: 15, count: 15 }])
    expect(results.map((one) => one!.count).sort((a, b) => a - b)).toEqual(Array.from({ length: 15 }, (_, i) => i + 1))
    for (const result of results) expect(result!.revision).toBe(result!.count)
  })

  test('answers null for a record that is not there, and for a change that is refused', async () => {
    const collection = await counters()
    expect(await mutate(collection, 'b', (counter) => counter)).toBeNull()
    expect(await mutate(collection, 'a', () => null)).toBeNull()
    expect(await collection.findByIds(['a'])).toEqual([{ _id: 'a', revision: 0, count: 0 }])
  })

  test('writes nothing for the same record', async () => {
    const collection = await counters()
    expect(await mutate(collection, 'a', (counter) => counter)).toEqual({ _id: 'a', revision: 0, count: 0 })
  })

  test('what `change` throws is thrown, and nothing is written', async () => {
    const collection = await counters()
    await expect(
      mutate(collection, 'a', () => {
        throw new Error('no')
      })
    ).rejects.toThrow('no')
  })

  test('gives up with CONFLICT when every try loses', async () => {
    const collection = await counters()
    const losing: Collection<Counter> = { ...collection, replaceEach: async () => [false] }
    await expect(mutate(losing, 'a', (counter) => ({ ...counter, count: 1 }))).rejects.toMatchObject({
      type: 'CONFLICT'
    })
  })
})
