import { crc32 } from 'node:zlib'
import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import {
  crc32Base64ToHex,
  crc32Combine,
  crc32FromHex,
  crc32Hex,
  crc32HexToBase64,
  crc32Of
} from '../../domain/crc32.ts'

describe('crc32', () => {
  test('the checksum of two runs equals that of the runs joined', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 5000 }), fc.uint8Array({ maxLength: 5000 }), (a, b) => {
        expect(crc32Combine(crc32(a), crc32(b), b.length)).toBe(crc32(Buffer.concat([a, b])))
      })
    )
  })

  test('any cut of a message into pieces gives the checksum of the message', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 }), (pieces) => {
        const parts = pieces.map((bytes) => ({ crc32: crc32Hex(crc32(bytes)), sizeBytes: bytes.length }))
        expect(crc32Of(parts)).toBe(crc32Hex(crc32(Buffer.concat(pieces))))
      })
    )
  })

  test('a run longer than 4 GiB is combined as if it were joined in two steps', () => {
    const half = 2 ** 34 + 12_345
    const once = crc32Combine(0x12345678, crc32Combine(0x9abcdef0, 0x0f1e2d3c, half), half * 2)
    const twice = crc32Combine(crc32Combine(0x12345678, 0x9abcdef0, half), 0x0f1e2d3c, half)
    expect(once).toBe(twice)
  })

  test('hex and base64 forms go back and forth', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffffffff }), (crc) => {
        const hex = crc32Hex(crc)
        expect(hex).toMatch(/^[0-9a-f]{8}$/)
        expect(crc32FromHex(hex)).toBe(crc)
        expect(crc32Base64ToHex(crc32HexToBase64(hex))).toBe(hex)
      })
    )
  })

  test('the check value of the catalogue of CRCs holds', () => {
    expect(crc32Hex(crc32('123456789'))).toBe('cbf43926')
    expect(crc32HexToBase64('cbf43926')).toBe('y/Q5Jg==')
  })

  test('what is not a checksum is refused', () => {
    expect(() => crc32FromHex('cbf4392')).toThrow(RangeError)
    expect(crc32Base64ToHex('y/Q5Jg==-3')).toBeNull()
    expect(() => crc32Combine(0, 0, -1)).toThrow(RangeError)
  })
})
