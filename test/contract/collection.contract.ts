import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals'
import type { IngestError } from '../../domain/errors.ts'
import type { Collection, Document, Index } from '../../drivers/db/collection.ts'

export interface Thing extends Document {
  status: string
  size?: number
  key?: string
  readyAt?: number | null
  turn?: string
  tags?: string[]
  detail?: Record<string, unknown>
  blob?: string
}

export interface OpenedCollection {
  collection: Collection<Thing>
  close(): Promise<void>
}

export interface CollectionDriver {
  /** Opens an empty collection of that name with a unique index on `key` (where it is a string) and one on `status`, `readyAt`. */
  open(name: string): Promise<OpenedCollection>
  stop(): Promise<void>
}

/** The index set that every driver's `open` makes. */
export const thingIndexes: Index[] = [
  { fields: { key: 1 }, unique: true, partial: { key: { $exists: true } } },
  { fields: { status: 1, readyAt: 1 } },
  { fields: { status: 1, turn: 1 }, inOrder: { status: 'new' } },
  { fields: { 'detail.dueAt': 1 }, partial: { 'detail.dueAt': { $exists: true } } }
]

function thing(id: number | string, more: Partial<Thing> = {}): Thing {
  return { _id: String(id), revision: 0, status: 'new', ...more }
}

function ids(things: Thing[]): string[] {
  return things.map(({ _id }) => _id)
}

/** A contest may be too much for a busy machine; what was asked for may have been done nevertheless. */
const isTooBusy = (error: unknown) => (error as IngestError).type === 'DATABASE_UNAVAILABLE'

/** What every driver of `Collection` keeps. */
export function collectionContract(name: string, start: () => Promise<CollectionDriver>): void {
  describe(`${name} as a collection`, () => {
    let driver: CollectionDriver
    let opened: OpenedCollection
    let things: Collection<Thing>
    let count = 0

    beforeAll(async () => {
      driver = await start()
    })
    afterAll(async () => {
      await driver?.stop()
    })
    beforeEach(async () => {
      opened = await driver.open(`things${count++}`)
      things = opened.collection
    })
    afterEach(async () => {
      await opened.close()
    })

    async function put(...documents: Thing[]): Promise<void> {
      expect((await things.insertNew(documents)).size).toBe(documents.length)
    }

    describe('insertNew', () => {
      test('answers the ids that were not there yet', async () => {
        expect(await things.insertNew([thing(1), thing(2)])).toEqual(new Set(['1', '2']))
        expect(await things.insertNew([thing(2), thing(3)])).toEqual(new Set(['3']))
        expect(await things.insertNew([thing(1), thing(2)])).toEqual(new Set())
        expect(await things.insertNew([])).toEqual(new Set())
      })

      test('leaves a document that is there as it was', async () => {
        await put(thing(1, { status: 'stored' }))
        await things.insertNew([thing(1, { status: 'new' })])
        expect(await things.findByIds(['1'])).toEqual([thing(1, { status: 'stored' })])
      })

      test('takes the first of two documents with one id', async () => {
        expect(await things.insertNew([thing(1, { size: 1 }), thing(1, { size: 2 })])).toEqual(new Set(['1']))
        expect(await things.findByIds(['1'])).toEqual([thing(1, { size: 1 })])
      })

      test('does not insert a document whose other unique key is taken', async () => {
        expect(
          await things.insertNew([thing(1, { key: 'a' }), thing(2, { key: 'a' }), thing(3, { key: 'b' })])
        ).toEqual(new Set(['1', '3']))
        expect(await things.count({})).toBe(2)
      })

      test('lets any number of documents lack the unique key', async () => {
        expect((await things.insertNew([thing(1), thing(2), thing(3)])).size).toBe(3)
      })

      test('inserts each of 300 documents exactly once when 10 callers offer all of them', async () => {
        const documents = Array.from({ length: 300 }, (_, i) => thing(i))
        const inserted: string[] = []
        let isUnsure = false
        async function offer(): Promise<void> {
          try {
            inserted.push(...(await things.insertNew(documents)))
          } catch (error) {
            if (!isTooBusy(error)) throw error
            isUnsure = true
            return offer()
          }
        }
        await Promise.all(Array.from({ length: 10 }, offer))
        if (!isUnsure) expect(inserted).toHaveLength(300)
        expect(new Set(inserted).size).toBe(inserted.length)
        expect(await things.count({})).toBe(300)
      })
    })

    describe('replaceEach', () => {
      test('writes where the revision still holds, and counts it up', async () => {
        const before = thing(1, { size: 5, tags: ['a'] })
        await put(before)
        expect(await things.replaceEach([{ from: before, to: { ...before, status: 'claimed' } }])).toEqual([true])
        expect(await things.findByIds(['1'])).toEqual([{ ...before, status: 'claimed', revision: 1 }])
      })

      test('refuses a stale `from`, whatever it would write', async () => {
        const before = thing(1)
        await put(before)
        await things.replaceEach([{ from: before, to: { ...before, status: 'claimed' } }])
        expect(await things.replaceEach([{ from: before, to: { ...before, status: 'stolen' } }])).toEqual([false])
        expect(await things.replaceEach([{ from: before, to: before }])).toEqual([false])
        expect((await things.findByIds(['1']))[0]).toMatchObject({ status: 'claimed', revision: 1 })
      })

      test('answers for each pair by itself', async () => {
        const [first, second, third] = [thing(1), thing(2), thing(3)]
        await put(first, third)
        await things.replaceEach([{ from: third, to: { ...third, status: 'gone on' } }])
        const to = [first, second, third].map((from) => ({ from, to: { ...from, status: 'claimed' } }))
        expect(await things.replaceEach(to)).toEqual([true, false, false])
        expect(await things.count({})).toBe(2)
        expect(await things.replaceEach([])).toEqual([])
      })

      test('keeps what others wrote into fields that this caller did not change', async () => {
        const before = thing(1, { size: 1 })
        await put(before)
        await things.replaceEach([{ from: before, to: { ...before, size: 2 } }])
        const partly = { ...before, revision: 1 }
        await things.replaceEach([{ from: partly, to: { ...partly, status: 'claimed' } }])
        expect(await things.findByIds(['1'])).toEqual([thing(1, { size: 2, status: 'claimed', revision: 2 })])
      })

      test('removes a field that `to` lacks or has undefined', async () => {
        const before = thing(1, { size: 1, tags: ['a'] })
        await put(before)
        const { size: _size, ...to } = { ...before, tags: undefined }
        expect(await things.replaceEach([{ from: before, to }])).toEqual([true])
        const [after] = await things.findByIds(['1'])
        expect(Object.keys(after!).sort()).toEqual(['_id', 'revision', 'status'])
        expect(await things.count({ size: { $exists: true } })).toBe(0)
      })

      test('throws CONFLICT when another unique key is taken, and leaves the document as it was', async () => {
        const [first, second] = [thing(1, { key: 'a' }), thing(2, { key: 'b' })]
        await put(first, second)
        await expect(things.replaceEach([{ from: second, to: { ...second, key: 'a' } }])).rejects.toMatchObject({
          type: 'CONFLICT'
        })
        expect(await things.findByIds(['2'])).toEqual([second])
        expect(await things.replaceEach([{ from: second, to: { ...second, key: 'c' } }])).toEqual([true])
      })

      test('writes all other pairs of a call in which one key is taken, and says which', async () => {
        const [first, second, third] = [thing(1, { key: 'a' }), thing(2, { key: 'b' }), thing(3, { key: 'c' })]
        await put(first, second, third)
        const pairs = [
          { from: first, to: { ...first, status: 'claimed' } },
          { from: second, to: { ...second, key: 'a' } },
          { from: { ...third, revision: 7 }, to: { ...third, status: 'claimed' } },
          { from: third, to: { ...third, status: 'stored' } }
        ]
        await expect(things.replaceEach(pairs)).rejects.toMatchObject({
          type: 'CONFLICT',
          data: { written: [true, false, false, true] }
        })
        const stored = (await things.find({}, { sort: { _id: 1 } })).map(({ status, key }) => `${status} ${key}`)
        expect(stored).toEqual(['claimed a', 'new b', 'stored c'])
      })

      test('changes 500 documents in one call, and one of them again in the next', async () => {
        const many = Array.from({ length: 500 }, (_, i) => thing(i, { key: `key ${i}` }))
        await put(...many)
        const pairs = many.map((from) => ({ from, to: { ...from, status: 'claimed', key: `${from.key} again` } }))
        expect(await things.replaceEach(pairs)).toEqual(many.map(() => true))
        expect(await things.count({ status: 'claimed' })).toBe(500)
        expect(await things.count({ key: { $in: ['key 7', 'key 7 again'] } })).toBe(1)
        const [seven] = await things.findByIds(['7'])
        expect(await things.replaceEach([{ from: seven!, to: { ...seven!, key: 'key 7' } }])).toEqual([true])
      })

      test('is not changed by what the caller does to its objects afterwards', async () => {
        const before = thing(1)
        await put(before)
        const detail: Record<string, unknown> = { part: 1 }
        await things.replaceEach([{ from: before, to: { ...before, detail } }])
        detail.part = 2
        const [read] = await things.findByIds(['1'])
        expect(read!.detail).toEqual({ part: 1 })
        // A driver may share what it gives, as long as nobody can change it.
        Reflect.set(read!.detail!, 'part', 3)
        expect((await things.findByIds(['1']))[0]!.detail).toEqual({ part: 1 })
      })

      test('gives each of 400 documents to exactly one of 50 claimers', async () => {
        await put(...Array.from({ length: 400 }, (_, i) => thing(i, { readyAt: i })))
        const won = new Map<string, string>()
        let tries = 0
        let isUnsure = false
        async function claim(claimer: string): Promise<void> {
          await claims(claimer).catch((error) => {
            if (!isTooBusy(error)) throw error
            isUnsure = true
            return claim(claimer)
          })
        }
        async function claims(claimer: string): Promise<void> {
          for (;;) {
            const free = await things.find(
              { status: 'new', readyAt: { $lte: 400 } },
              { sort: { readyAt: 1 }, limit: 20 }
            )
            if (free.length === 0) return
            tries += free.length
            const results = await things.replaceEach(
              free.map((from) => ({ from, to: { ...from, status: 'claimed', key: `${from._id} ${claimer}` } }))
            )
            free.forEach(({ _id }, i) => {
              if (!results[i]) return
              expect(won.has(_id)).toBe(false)
              won.set(_id, `${_id} ${claimer}`)
            })
          }
        }
        await Promise.all(Array.from({ length: 50 }, (_, i) => claim(`claimer ${i}`)))
        expect(tries).toBeGreaterThan(400)
        const stored = new Map((await things.find({})).map((one) => [one._id, one]))
        if (!isUnsure) expect(won.size).toBe(400)
        for (const [id, key] of won) expect(stored.get(id)!.key).toBe(key)
        expect([...stored.values()].map(({ revision }) => revision)).toEqual(Array(400).fill(1))
      })
    })

    describe('find', () => {
      beforeEach(async () => {
        await put(
          thing('a', { size: 3, status: 'new', readyAt: 10, tags: ['x', 'y'] }),
          thing('b', { size: 1, status: 'claimed', readyAt: 20, detail: { worker: 'w1' } }),
          thing('c', { size: 2, status: 'new', readyAt: null }),
          thing('d', { size: 2, status: 'stored' })
        )
      })

      test('sorts by several fields, in either direction', async () => {
        expect(ids(await things.find({}, { sort: { size: 1, _id: 1 } }))).toEqual(['b', 'c', 'd', 'a'])
        expect(ids(await things.find({}, { sort: { size: -1, _id: -1 } }))).toEqual(['a', 'd', 'c', 'b'])
      })

      test('finds by a regular expression, across newlines', async () => {
        await things.insertNew([{ _id: 'r', revision: 0, status: 'line one\nline (two).csv' }])
        expect(ids(await things.find({ status: /^line[\s\S]*\(two\)\.csv$/ }))).toEqual(['r'])
      })

      test('limits after sorting', async () => {
        expect(ids(await things.find({}, { sort: { size: -1, _id: 1 }, limit: 2 }))).toEqual(['a', 'c'])
      })

      test('leaves fields out', async () => {
        expect(await things.find({ _id: 'b' }, { omit: ['detail', 'size'] })).toEqual([
          thing('b', { status: 'claimed', readyAt: 20 })
        ])
      })

      test('understands the operators that both databases share', async () => {
        async function found(query: Record<string, unknown>): Promise<string> {
          return ids(await things.find(query, { sort: { _id: 1 } })).join('')
        }
        expect(await found({ status: { $in: ['new', 'stored'] } })).toBe('acd')
        expect(await found({ status: { $in: [] } })).toBe('')
        expect(await found({ status: { $ne: 'new' } })).toBe('bd')
        expect(await found({ readyAt: { $ne: 10 } })).toBe('bcd')
        expect(await found({ status: 'new', size: 2 })).toBe('c')
        expect(await found({ size: { $gt: 1, $lt: 3 } })).toBe('cd')
        expect(await found({ size: { $gte: 2 } })).toBe('acd')
        expect(await found({ tags: 'y' })).toBe('a')
        expect(await found({ 'detail.worker': 'w1' })).toBe('b')
        expect(await found({ detail: { $exists: true } })).toBe('b')
        expect(await found({ readyAt: { $exists: false } })).toBe('d')
        expect(await found({ $or: [{ size: 1 }, { status: 'stored' }] })).toBe('bd')
        expect(await found({ size: 2, $or: [{ size: 1 }, { status: 'stored' }] })).toBe('d')
        expect(await found({ $and: [{ size: 2 }, { status: 'new' }] })).toBe('c')
      })

      test('matches neither null nor a missing field by an order', async () => {
        expect(ids(await things.find({ readyAt: { $lte: 15 } }))).toEqual(['a'])
      })

      test('finds by ids, each once, and leaves out those that are not there', async () => {
        expect(ids(await things.findByIds(['b', 'none', 'a', 'b'])).sort()).toEqual(['a', 'b'])
        expect(await things.findByIds([])).toEqual([])
      })

      test('counts', async () => {
        expect(await things.count({})).toBe(4)
        expect(await things.count({ status: 'new' })).toBe(2)
      })

      test('totals counts and sizes by status', async () => {
        expect(await things.totals({})).toEqual({
          new: { count: 2, bytes: 5 },
          claimed: { count: 1, bytes: 1 },
          stored: { count: 1, bytes: 2 }
        })
        expect(await things.totals({ size: { $gte: 3 } })).toEqual({ new: { count: 1, bytes: 3 } })
        expect(await things.totals({ status: 'none' })).toEqual({})
      })

      test('removes by ids and answers how many there were', async () => {
        expect(await things.removeByIds(['a', 'none', 'b'])).toBe(2)
        expect(await things.removeByIds(['a'])).toBe(0)
        expect(await things.count({})).toBe(2)
      })
    })

    test('a range of texts is found in the order of its index, to a limit', async () => {
      const turns = ['#b', '!0000000000000009', '#\u0000', '!0000000000000010', '#文', '', '#B']
      await put(
        ...turns.map((turn) => thing(turn, { turn })),
        thing('none'),
        thing('other', { status: 'x', turn: '#a' })
      )
      const found = async (turn: object, limit?: number) =>
        ids(await things.find({ status: 'new', turn }, { sort: { turn: 1 }, ...(limit ? { limit } : {}) }))
      expect(await found({ $gte: '!', $lte: '!0000000000000009' })).toEqual(['!0000000000000009'])
      expect(await found({ $gte: '#' })).toEqual(['#\u0000', '#B', '#b', '#文'])
      expect(await found({ $gte: '#' }, 2)).toEqual(['#\u0000', '#B'])
    })

    test('a field within another that only some have is found by its index, and no more once it is gone', async () => {
      const due = (id: string, dueAt: number) => thing(id, { detail: { state: 'due', dueAt } })
      await put(due('b', 20), due('a', 10), due('c', 30), thing('d', { detail: { state: 'done' } }), thing('e'))
      const found = async () =>
        ids(await things.find({ 'detail.dueAt': { $lte: 20 } }, { sort: { 'detail.dueAt': 1 } }))
      expect(await found()).toEqual(['a', 'b'])
      const [from] = await things.findByIds(['a'])
      await things.replaceEach([{ from: from!, to: { ...from!, detail: { state: 'done' } } }])
      expect(await found()).toEqual(['b'])
    })

    test('a thousand ids and more are found and removed', async () => {
      await put(...Array.from({ length: 1200 }, (_, i) => thing(i)))
      const all = Array.from({ length: 1300 }, (_, i) => String(i))
      expect((await things.findByIds(all)).length).toBe(1200)
      expect(await things.removeByIds(all)).toBe(1200)
    })

    test.each([
      'a.b/c.d.txt',
      '$where',
      'line one\nline two\r\n\ttab',
      `'single' "double" \`back\` \\ backslash`,
      'naïve 文件 🚢',
      'e\u0301 is not \u00e9',
      'nul \u0000 and \u2028 separator',
      ''
    ])('a value stays what it is: %j', async (value) => {
      const before = thing(`id ${value}`, { key: `key ${value}`, blob: value, tags: [value], detail: { value } })
      await put(before)
      const to = { ...before, blob: `${value}!`, detail: { value: [value, null, 1.5, true, 2 ** 52] } }
      expect(await things.replaceEach([{ from: before, to }])).toEqual([true])
      expect(await things.findByIds([before._id])).toEqual([{ ...to, revision: 1 }])
      expect(await things.count({ blob: `${value}!` })).toBe(1)
      expect(await things.count({ tags: value })).toBe(1)
    })

    test('empty objects and arrays stay', async () => {
      await put(thing(1, { detail: {}, tags: [] }))
      expect(await things.findByIds(['1'])).toEqual([thing(1, { detail: {}, tags: [] })])
    })

    test('ping resolves', async () => {
      await things.ping()
    })
  })
}
