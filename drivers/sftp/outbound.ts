/** What a connection sends. ssh2 writes each request by itself, which for many small files costs as much as their bytes do. */
import { randomFillSync } from 'node:crypto'
import type { Socket } from 'node:net'
import type { Client } from 'ssh2'

/** What is written in one turn of the event loop leaves in one system call. */
export function gatherWrites(socket: Socket): void {
  const write = socket.write as (...given: unknown[]) => boolean
  let isGathering = false
  socket.write = ((...given: unknown[]) => {
    if (!isGathering) {
      isGathering = true
      socket.cork()
      // Runs when the answers that have arrived are dealt with, and before anything else is waited for.
      setImmediate(() => {
        isGathering = false
        socket.uncork()
      })
    }
    return write.apply(socket, given)
  }) as Socket['write']
}

const blockBytes = 16
const tagBytes = 16
/** uint32 length, byte length of the padding: RFC 4253, 6. */
const headBytes = 5
const leastPaddingBytes = 4

interface ClientInternals {
  _protocol?: { _cipher: { allocPacket(payloadBytes: number): Buffer } }
}

const random = Buffer.allocUnsafeSlow(4096)
let usedRandom = random.length

/**
 * Padding out of random bytes that were made some kilobytes at a time: ssh2 asks the generator for those of each packet,
 * which was a fifth of what reading a small file costs. To be called whenever the connection has new keys. Only packets of
 * AES-GCM by the native binding hold their tag; all other ciphers are left as they are.
 */
export function padFromPool(client: Client): void {
  const cipher = (client as ClientInternals)._protocol?._cipher
  if (cipher?.constructor.name === 'AESGCMCipherBinding') cipher.allocPacket = allocPacket
}

/** A packet of AES-GCM with room for its payload and tag; its length is sent in clear and not padded (RFC 5647, 7.2). */
function allocPacket(payloadBytes: number): Buffer {
  const short = blockBytes - ((1 + payloadBytes) % blockBytes)
  const paddingBytes = short < leastPaddingBytes ? short + blockBytes : short
  const paddingAt = headBytes + payloadBytes
  const packet = Buffer.allocUnsafe(paddingAt + paddingBytes + tagBytes)
  packet.writeUInt32BE(1 + payloadBytes + paddingBytes, 0)
  packet[4] = paddingBytes
  if (usedRandom + paddingBytes > random.length) {
    randomFillSync(random)
    usedRandom = 0
  }
  random.copy(packet, paddingAt, usedRandom, usedRandom + paddingBytes)
  usedRandom += paddingBytes
  return packet
}
