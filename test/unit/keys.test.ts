import { describe, expect, test } from '@jest/globals'
import { authenticator, mayActAs } from '../../rest/keys.ts'

const keys = [
  { name: 'ada', role: 'admin' as const, secret: 'secret-of-ada' },
  { name: 'vera', role: 'viewer' as const, secret: 'secret-of-vera' }
]

describe('authenticator', () => {
  test('knows who sends which secret', () => {
    const callerOf = authenticator(keys)
    expect(callerOf('Bearer secret-of-ada')).toEqual({ name: 'ada', role: 'admin' })
    expect(callerOf('bearer   secret-of-vera ')).toEqual({ name: 'vera', role: 'viewer' })
  })

  test.each([
    undefined,
    '',
    'Bearer',
    'Bearer ',
    'Bearer no',
    'Basic secret-of-ada',
    'secret-of-ada',
    'Bearer secret-of-ada x'
  ])('%j is nobody', (header) => {
    expect(authenticator(keys)(header)).toBeNull()
  })

  test('without any key everybody is a local admin', () => {
    expect(authenticator([])(undefined)).toEqual({ name: 'local', role: 'admin' })
  })
})

describe('mayActAs', () => {
  test('a role may do what lower ones may, and nothing above', () => {
    const roles = ['viewer', 'operator', 'admin'] as const
    for (const [i, role] of roles.entries()) {
      for (const [j, wanted] of roles.entries()) expect(mayActAs({ name: 'x', role }, wanted)).toBe(i >= j)
    }
  })
})
