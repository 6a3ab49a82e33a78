import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { byPriority, urgentOf } from '../../domain/priority.ts'

describe('the priority of servers', () => {
  test('orders them, and leaves those of one priority in their order, each once', () => {
    const priorities = { low: -1, high: 5, higher: 9 }
    expect(byPriority(['b', 'low', 'high', 'a', 'higher', 'high'], priorities)).toEqual([
      'higher',
      'high',
      'b',
      'a',
      'low'
    ])
    expect(urgentOf(priorities)).toEqual(['higher', 'high'])
  })

  test('loses none and adds none', () => {
    const ids = fc.array(fc.constantFrom('a', 'b', 'c', 'd', 'e'))
    const priorities = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'x'), fc.integer({ min: -100, max: 100 }))
    fc.assert(
      fc.property(ids, priorities, (servers, given) => {
        const ordered = byPriority(servers, given)
        expect([...ordered].sort()).toEqual([...new Set(servers)].sort())
        const values = ordered.map((id) => given[id] ?? 0)
        expect(values).toEqual([...values].sort((a, b) => b - a))
      })
    )
  })
})
