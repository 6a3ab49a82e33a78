import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { Client, SFTPWrapper } from 'ssh2'
import { readInto, takeData } from '../../drivers/sftp/inbound.ts'

const DATA = 103

function packet(type: number, ...fields: Buffer[]): Buffer {
  const head = Buffer.alloc(5)
  const body = Buffer.concat(fields)
  head.writeUInt32BE(body.length + 1)
  head[4] = type
  return Buffer.concat([head, body])
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

const dataPacket = (request: number, data: Buffer) => packet(DATA, uint32(request), uint32(data.length), data)

/** A channel as ssh2 keeps it, that notes what is left to ssh2. */
function fakeChannel(wanted: Record<number, Buffer>) {
  const answers: Record<number, string> = {}
  const left: Buffer[] = []
  const requests: Record<number, object> = {}
  for (const [id, buffer] of Object.entries(wanted)) {
    const cb = (_error: undefined, data: Buffer, bytes: number) => {
      answers[Number(id)] = data.subarray(0, bytes).toString()
    }
    requests[Number(id)] = { buffer, cb }
  }
  const channel = { _requests: requests, push: (data: Buffer) => void left.push(data) }
  takeData(channel as unknown as SFTPWrapper)
  return { channel, answers, requests, left: () => Buffer.concat(left) }
}

/** `bytes` in pieces that end at `cuts`. */
function pieces(bytes: Buffer, cuts: number[]): Buffer[] {
  const at = [0, ...new Set(cuts.map((cut) => cut % bytes.length)), bytes.length].sort((a, b) => a - b)
  return at.slice(1).map((end, index) => bytes.subarray(at[index], end))
}

describe('what comes over an SFTP channel', () => {
  test('goes straight to the READ that wants it, wherever it is cut, and all else to ssh2', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(), { maxLength: 20 }), (cuts) => {
        const status = packet(101, uint32(9), uint32(0), uint32(0), uint32(0))
        const tiny = packet(2)
        const stream = Buffer.concat([
          dataPacket(1, Buffer.from('first')),
          status,
          tiny,
          dataPacket(2, Buffer.from('second')),
          status
        ])
        const { channel, answers, requests, left } = fakeChannel({ 1: Buffer.alloc(5), 2: Buffer.alloc(100) })
        for (const piece of pieces(stream, cuts)) {
          const borrowed = Buffer.from(piece)
          channel.push(borrowed)
          borrowed.fill(0xff)
        }
        expect(answers).toEqual({ 1: 'first', 2: 'second' })
        expect(requests).toEqual({})
        expect(left().equals(Buffer.concat([status, tiny, status]))).toBe(true)
      })
    )
  })

  test.each([
    ['that nobody asked for', dataPacket(7, Buffer.from('x')), {}],
    ['of more bytes than were asked for', dataPacket(1, Buffer.from('too much')), { 1: Buffer.alloc(3) }],
    ['without a byte', dataPacket(1, Buffer.alloc(0)), { 1: Buffer.alloc(3) }],
    ['whose two lengths do not agree', packet(DATA, uint32(1), uint32(2), Buffer.from('abc')), { 1: Buffer.alloc(3) }]
  ])('is left to ssh2 when it is data %s', (_, bytes, wanted: Record<number, Buffer>) => {
    const { channel, answers, left } = fakeChannel(wanted)
    channel.push(bytes)
    expect(answers).toEqual({})
    expect(left().equals(bytes)).toBe(true)
  })
})

class AESGCMDecipherStandIn {
  _lenBytes = 0
  _packet: Uint8Array | null = null
}

/** A connection past its handshake, and what ssh2 was handed. */
function fakeConnection(protocol: object) {
  const handed: Buffer[] = []
  const asHanded: Buffer[] = []
  const client = { _protocol: { _authenticated: true, _kexinit: undefined, ...protocol } }
  const options = readInto(client as unknown as Client, (data) => {
    asHanded.push(Buffer.from(data))
    handed.push(data)
  })
  const space = () => (options.buffer as () => Buffer)()
  return {
    /** The memory that ssh2 was handed, and what was in it then. */
    handed,
    asHanded,
    client,
    space,
    read(bytes: Buffer) {
      bytes.copy(space())
      options.callback(bytes.length, space())
    }
  }
}

const sshPacket = (length: number, fill: number) => Buffer.concat([uint32(length), Buffer.alloc(length + 16, fill)])

describe('what a socket reads', () => {
  test('reaches ssh2 in whole packets of AES-GCM, in their order, wherever it is cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(), { maxLength: 20 }),
        fc.array(fc.integer({ min: 16, max: 33_000 })),
        (cuts, sizes) => {
          const stream = Buffer.concat([
            sshPacket(32, 1),
            ...sizes.slice(0, 5).map((size, index) => sshPacket(size, index))
          ])
          const connection = fakeConnection({ _decipher: new AESGCMDecipherStandIn() })
          const seen: Buffer[] = []
          for (const piece of pieces(stream, cuts)) {
            connection.read(piece)
            for (const data of connection.asHanded.splice(0)) {
              let at = 0
              while (at < data.length) at += 4 + data.readUInt32BE(at) + 16
              expect(at).toBe(data.length)
              seen.push(data)
            }
          }
          expect(Buffer.concat(seen).equals(stream)).toBe(true)
        }
      )
    )
  })

  test('is handed over as it is when its length cannot be one, so that ssh2 says so', () => {
    const connection = fakeConnection({ _decipher: new AESGCMDecipherStandIn() })
    connection.read(Buffer.from('ffffffff', 'hex'))
    expect(connection.handed[0]?.toString('hex')).toBe('ffffffff')
  })

  test('is not written over while ssh2 makes new keys', () => {
    const connection = fakeConnection({ _decipher: new AESGCMDecipherStandIn(), _kexinit: Buffer.alloc(1) })
    connection.read(sshPacket(16, 1))
    connection.read(sshPacket(16, 2))
    expect(connection.handed[0]![4]).toBe(1)
  })

  test('is not written over before the login', () => {
    const connection = fakeConnection({ _authenticated: false })
    connection.read(Buffer.from('first'))
    connection.read(Buffer.from('other'))
    expect(connection.handed[0]?.toString()).toBe('first')
  })

  test('is not written over while a decipher of another kind holds a piece of it', () => {
    const decipher = { _lenBytes: 4, _packet: null as Uint8Array | null }
    const connection = fakeConnection({ _decipher: decipher })
    connection.handed.push = (data: Buffer) => {
      decipher._packet = data
      return Array.prototype.push.call(connection.handed, data)
    }
    connection.read(Buffer.from('first'))
    connection.read(Buffer.from('other'))
    expect(connection.handed[0]?.toString()).toBe('first')
  })

  test('otherwise comes into the same memory over and over', () => {
    const connection = fakeConnection({ _decipher: new AESGCMDecipherStandIn() })
    const before = connection.space().buffer
    connection.read(sshPacket(16, 1))
    connection.read(sshPacket(16, 2))
    expect(connection.space().buffer).toBe(before)
  })
})
