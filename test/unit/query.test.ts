import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { matcher, select, wantedValues } from '../../drivers/db/query.ts'

describe('a query over documents in memory', () => {
  test('the first few in order are those of a whole sort', () => {
    const documents = fc.array(fc.record({ _id: fc.uuid(), dueAt: fc.option(fc.integer({ min: 0, max: 9 })) }))
    fc.assert(
      fc.property(documents, fc.integer({ min: 1, max: 12 }), (given, limit) => {
        const sort = { dueAt: -1, _id: 1 } as const
        expect(select(given, {}, { sort, limit })).toEqual(select(given, {}, { sort }).slice(0, limit))
      })
    )
  })

  test('missing and null come before numbers, and those before strings', () => {
    const values = ['b', 2, null, 'a', 1, undefined]
    const sorted = select(
      values.map((value) => ({ value })),
      {},
      { sort: { value: 1 } }
    )
    expect(sorted.map(({ value }) => value)).toEqual([undefined, null, 1, 2, 'a', 'b'])
  })

  test('a path goes through objects, and ends at null', () => {
    const matches = matcher({ 'a.b.c': 1 })
    expect([{ a: { b: { c: 1 } } }, { a: { b: null } }, { a: 1 }, {}].map(matches)).toEqual([true, false, false, false])
  })

  test('an operator that it does not know is an error, not a match', () => {
    expect(() => matcher({ a: { $where: 'true' } })).toThrow(/\$where/)
  })

  test('values that a field must have are found beside other conditions, also inside $and', () => {
    expect(wantedValues({ status: 'new', dueAt: { $lte: 1 } }, 'status')).toEqual(['new'])
    expect(wantedValues({ $and: [{ dueAt: { $lte: 1 } }, { status: { $in: ['a', 'b'] } }] }, 'status')).toEqual([
      'a',
      'b'
    ])
    expect(wantedValues({ $or: [{ status: 'new' }, {}] }, 'status')).toBeNull()
    expect(wantedValues({ status: null }, 'status')).toBeNull()
    expect(wantedValues({ status: { $ne: 'new' } }, 'status')).toBeNull()
  })
})
