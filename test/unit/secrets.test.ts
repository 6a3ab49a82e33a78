import { randomBytes } from 'node:crypto'
import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { keyIdOf, seal, unseal } from '../../drivers/secrets.ts'

const key = Buffer.alloc(32, 1)
const context = 's1:password'
const unreadable = expect.objectContaining({ type: 'SECRET_UNREADABLE' })

describe('sealed secrets', () => {
  test('open to what they were', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.string(), (secret, where) => {
        expect(unseal(key, seal(key, secret, where), where)).toBe(secret)
      })
    )
  })

  test('show nothing of the secret or of the key, and differ each time', () => {
    const secret = 'a-canary-of-a-password'
    const [one, two] = [seal(key, secret, context), seal(key, secret, context)]
    expect(one.value).not.toBe(two.value)
    expect(one.dataKey).not.toBe(two.dataKey)
    for (const shown of [JSON.stringify(one), Buffer.from(one.value, 'base64').toString('latin1')]) {
      expect(shown).not.toContain(secret)
      expect(shown).not.toContain(Buffer.from(secret).toString('base64'))
      expect(shown).not.toContain(key.toString('base64'))
    }
  })

  test('do not open with another key, and say so', () => {
    const sealed = seal(key, 'secret', context)
    expect(() => unseal(randomBytes(32), sealed, context)).toThrow(unreadable)
    expect(() => unseal(randomBytes(32), sealed, context)).toThrow('another ENCRYPTION_KEY')
  })

  test('do not open in another field or record', () => {
    const sealed = seal(key, 'secret', context)
    for (const other of ['s1:passphrase', 's2:password', '']) {
      expect(() => unseal(key, sealed, other)).toThrow(unreadable)
    }
  })

  test('do not open with the value or data key of another', () => {
    const [one, two] = [seal(key, 'one', context), seal(key, 'two', context)]
    expect(() => unseal(key, { ...one, value: two.value }, context)).toThrow(unreadable)
    expect(() => unseal(key, { ...one, dataKey: two.dataKey }, context)).toThrow(unreadable)
  })

  test('do not open when any byte was altered or cut off', () => {
    const field = fc.constantFrom('value' as const, 'dataKey' as const)
    fc.assert(
      fc.property(field, fc.nat(), fc.integer({ min: 1, max: 255 }), fc.boolean(), (name, place, flip, isCut) => {
        const sealed = seal(key, 'a secret', context)
        const bytes = Buffer.from(sealed[name], 'base64')
        const at = place % bytes.length
        if (!isCut) bytes[at]! ^= flip
        const altered = (isCut ? bytes.subarray(0, at) : bytes).toString('base64')
        expect(() => unseal(key, { ...sealed, [name]: altered }, context)).toThrow(unreadable)
      })
    )
  })

  test('the error holds nothing of the secret', () => {
    try {
      unseal(key, seal(key, 'a-canary', context), 'elsewhere')
    } catch (error) {
      expect(`${(error as Error).message}${JSON.stringify(error)}`).not.toContain('a-canary')
    }
  })

  test('a key is named the same each time, and differently from others', () => {
    expect(keyIdOf(key)).toBe(keyIdOf(Buffer.alloc(32, 1)))
    expect(keyIdOf(key)).not.toBe(keyIdOf(Buffer.alloc(32, 2)))
  })
})
