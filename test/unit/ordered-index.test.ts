import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { OrderedIndex } from '../../drivers/db/ordered-index.ts'
import { select } from '../../drivers/db/query.ts'

interface Waiting {
  _id: string
  revision: number
  status: string
  serverId: string
  turn: string | number | null
}

const options = { only: { status: 'pending' }, fields: ['status', 'serverId', 'turn'] }
const document = (change: Partial<Waiting>): Waiting => ({
  _id: 'a',
  revision: 1,
  status: 'pending',
  serverId: 's',
  turn: '#1',
  ...change
})

describe('an index in the order of its fields', () => {
  test('finds what a sort of all documents finds, whatever came, changed and went', () => {
    const turn = fc.oneof(
      fc.constantFrom('', '!1', '#1', '#2', '#3'),
      fc.integer({ min: 0, max: 3 }),
      fc.constant(null)
    )
    const one = fc.record({
      _id: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'),
      status: fc.constantFrom('pending', 'pending', 'stored'),
      serverId: fc.constantFrom('s', 's', 't', 'u'),
      turn
    })
    const bounds = fc.dictionary(fc.constantFrom('$gt', '$gte', '$lt', '$lte'), turn, { maxKeys: 2 })
    const query = fc.oneof(
      fc.record({ status: fc.constant('pending'), serverId: fc.constantFrom('s', 't'), turn: bounds }),
      fc.record({ status: fc.constant('pending'), serverId: fc.constantFrom('s', 't') }),
      fc.record({
        status: fc.constant('pending'),
        serverId: fc.record({ $gt: fc.constantFrom('', 's', 't') }),
        turn: bounds
      })
    )
    fc.assert(
      fc.property(
        fc.array(one, { minLength: 5, maxLength: 30 }),
        query,
        fc.integer({ min: 1, max: 9 }),
        (changes, wanted, limit) => {
          const stored = new Map<string, Waiting>()
          const index = new OrderedIndex<Waiting>(options)
          for (const change of changes) {
            const before = stored.get(change._id)
            if (before) index.remove(before)
            // What comes a third time goes.
            if (before && before.revision > 1) stored.delete(change._id)
            else stored.set(change._id, { ...change, revision: (before?.revision ?? 0) + 1 })
            const after = stored.get(change._id)
            if (after) index.insert(after)
          }
          const field = typeof wanted.serverId === 'string' ? 'turn' : 'serverId'
          const found = select(index.inOrder(wanted, { [field]: 1 })!, wanted, { limit })
          const expected = select(stored.values(), wanted, { sort: { [field]: 1 }, limit })
          const values = (documents: Waiting[]) => documents.map((each) => each[field])
          expect(values(found)).toEqual(values(expected))
          for (const each of found) expect(stored.get(each._id)).toBe(each)
        }
      ),
      { numRuns: 2_000 }
    )
  })

  test('reads no more of a backlog than is asked for', () => {
    const index = new OrderedIndex<Waiting>(options)
    for (let number = 0; number < 5_000; number++) {
      index.insert(document({ _id: `${number}`, turn: `#${String(number).padStart(5, '0')}` }))
    }
    let read = 0
    const counted = function* (documents: Iterable<Waiting>) {
      for (const each of documents) {
        read++
        yield each
      }
    }
    const query = { status: 'pending', serverId: 's', turn: { $gte: '#04000' } }
    const found = select(counted(index.inOrder(query, { turn: 1 })!), query, { limit: 3 })
    expect(found.map(({ _id }) => _id)).toEqual(['4000', '4001', '4002'])
    expect(read).toBe(3)
    const past = { status: 'pending', serverId: 's', turn: { $lte: '!9' } }
    expect(select(counted(index.inOrder(past, { turn: 1 })!), past, { limit: 3 })).toEqual([])
    expect(read).toBe(3)
    // Whole servers are passed over by one step, and none is looked into behind the last.
    index.insert(document({ _id: 'z', serverId: 't' }))
    const next = { status: 'pending', serverId: { $gt: 's' } }
    expect(select(counted(index.inOrder(next, { serverId: 1 })!), next, { limit: 1 })).toHaveLength(1)
    expect(read).toBe(4)
    const last = { status: 'pending', serverId: 's', turn: { $gte: '#04999' } }
    expect(select(counted(index.inOrder(last, { turn: 1 })!), last, { limit: 9 })).toHaveLength(1)
    expect(read).toBe(5)
  })

  test('leaves other questions to others', () => {
    const index = new OrderedIndex<Waiting>(options)
    expect(index.inOrder({ status: 'stored', serverId: 's' }, { turn: 1 })).toBeNull()
    expect(index.inOrder({ serverId: 's' }, { turn: 1 })).toBeNull()
    expect(index.inOrder({ status: { $in: ['pending'] }, serverId: 's' }, { turn: 1 })).toBeNull()
    expect(index.inOrder({ status: 'pending' }, { turn: 1 })).toBeNull()
    expect(index.inOrder({ status: 'pending', serverId: 's' }, { turn: -1 })).toBeNull()
    expect(index.inOrder({ status: 'pending', serverId: 's' }, { turn: 1, _id: 1 })).toBeNull()
    expect(index.inOrder({ status: 'pending', serverId: 's', turn: '#1' }, { turn: 1 })).toBeNull()
  })
})
