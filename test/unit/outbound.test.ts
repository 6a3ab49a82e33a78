import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { Client } from 'ssh2'
import { padFromPool } from '../../drivers/sftp/outbound.ts'

class AESGCMCipherBinding {
  allocPacket = (_payloadBytes: number): Buffer => Buffer.alloc(0)
}
/** Its tag is sent by itself. */
class AESGCMCipherNative extends AESGCMCipherBinding {}
class GenericCipherBinding extends AESGCMCipherBinding {}

function padded<C extends AESGCMCipherBinding>(cipher: C): C {
  padFromPool({ _protocol: { _cipher: cipher } } as unknown as Client)
  return cipher
}

describe('padFromPool', () => {
  test('makes packets as RFC 4253 and RFC 5647 want them', () => {
    const cipher = padded(new AESGCMCipherBinding())
    fc.assert(
      fc.property(fc.nat(35_000), (payloadBytes) => {
        const packet = cipher.allocPacket(payloadBytes)
        const lengthBytes = packet.readUInt32BE(0)
        const paddingBytes = packet[4]!
        expect(lengthBytes).toBe(1 + payloadBytes + paddingBytes)
        expect(lengthBytes % 16).toBe(0)
        expect(paddingBytes).toBeGreaterThanOrEqual(4)
        expect(paddingBytes).toBeLessThan(20)
        expect(packet.length).toBe(4 + lengthBytes + 16)
      })
    )
  })

  test('pads no two packets alike', () => {
    const cipher = padded(new AESGCMCipherBinding())
    const paddings = Array.from({ length: 2000 }, () => cipher.allocPacket(10).subarray(15, 20).toString('hex'))
    // Five random bytes: that two of so many are equal happens once in half a million runs.
    expect(new Set(paddings).size).toBe(paddings.length)
  })

  test('leaves other ciphers as they are, and a client that is not connected', () => {
    for (const cipher of [new AESGCMCipherNative(), new GenericCipherBinding()]) {
      const own = cipher.allocPacket
      expect(padded(cipher).allocPacket).toBe(own)
    }
    expect(() => padFromPool({} as Client)).not.toThrow()
  })
})
