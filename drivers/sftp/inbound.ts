/**
 * What a connection reads, without a new buffer for every piece of it. Left alone, Node takes 64 KiB for each read of
 * the socket and ssh2 a packet's length for each answer to a READ, all of it garbage at once: a fifth of the CPU and a
 * hundred megabytes of memory that the allocator keeps.
 *
 * The socket reads into one buffer over and over, for as long as ssh2 keeps nothing of what it was given: `isOpenFor`
 * and `isHeld` are all the cases where it does, and then the next read gets another buffer. Of an SFTP
 * channel, the answers to READs are copied from there straight to where the READ wanted them; all else is handed to
 * ssh2 as a copy.
 */
import type { OnReadOpts } from 'node:net'
import type { Client, SFTPWrapper } from 'ssh2'

/** As much as one read of the socket may take: several SSH packets of 32 KiB. */
const bufferBytes = 256 * 1024
const tagBytes = 16
/** ssh2 takes none that is longer. */
const mostPacketBytes = 35_000

/** SSH_FXP_DATA, https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02#section-7 */
const dataType = 103
/** uint32 length, byte type, uint32 request, uint32 length of the data. */
const headBytes = 13

/** What ssh2 knows of a connection and of an SFTP channel but does not publish. */
interface ClientInternals {
  _protocol?: { _kexinit: unknown; _authenticated: boolean; _decipher?: Deciphering }
}
interface Deciphering {
  /** How much of the next packet's length it has. */
  _lenBytes: number
}
interface SftpInternals {
  push(data: Buffer | null): void
  _requests: Record<number, { buffer?: Buffer; cb(error: undefined, data: Buffer, bytes: number): void } | undefined>
}

/**
 * For `net.connect`: what is read goes to `emit`, which hands it to the 'data' listener that ssh2 sets on the socket.
 * Where packets show their length (AES-GCM) ssh2 is given whole ones only, since it copies a piece of one aside; the
 * rest stays, and the next read goes on behind it.
 */
export function readInto(client: Client, emit: (data: Buffer) => void): OnReadOpts {
  let buffer = Buffer.allocUnsafeSlow(bufferBytes)
  /** Bytes at the beginning of `buffer` that wait for the rest of their packet. */
  let kept = 0
  return {
    buffer: () => buffer.subarray(kept),
    callback: (bytes) => {
      const end = kept + bytes
      const isOpen = isOpenFor(client)
      const whole = isOpen && showsLengths(client) ? wholePackets(buffer, end) : end
      kept = end - whole
      if (whole > 0) emit(buffer.subarray(0, whole))
      const used = buffer
      if (!isOpen || !isOpenFor(client) || isHeld(client, buffer)) buffer = Buffer.allocUnsafeSlow(bufferBytes)
      if (kept > 0) used.copy(buffer, 0, whole, end)
      return true
    }
  }
}

function deciphering(client: Client): Deciphering | undefined {
  return (client as ClientInternals)._protocol?._decipher
}

/** Past the handshake, and no new keys are being made: ssh2 keeps the messages of both. */
function isOpenFor(client: Client): boolean {
  const protocol = (client as ClientInternals)._protocol
  return protocol?._authenticated === true && protocol._kexinit === undefined
}

/** A packet that has come but for some of its tag stays where it came, until the rest is read. */
function isHeld(client: Client, buffer: Buffer): boolean {
  const values = Object.values(deciphering(client) ?? {})
  return values.some((value) => value instanceof Uint8Array && value.buffer === buffer.buffer)
}

/** Whether the next byte begins a packet of AES-GCM: its length in clear, so many bytes, and a tag (RFC 5647, 7.2). */
function showsLengths(client: Client): boolean {
  const decipher = deciphering(client)
  return decipher?._lenBytes === 0 && /^AESGCM/.test(decipher.constructor.name)
}

/** Bytes up to the end of the last packet that has come whole. All of them where no such packet can be: ssh2 says why. */
function wholePackets(buffer: Buffer, end: number): number {
  let at = 0
  while (end - at >= 4) {
    const packetBytes = 4 + buffer.readUInt32BE(at) + tagBytes
    if (packetBytes > mostPacketBytes) return end
    if (packetBytes > end - at) break
    at += packetBytes
  }
  return at
}

/** Takes the answers to READs out of what comes over a channel. Call it before anything is asked of the channel. */
export function takeData(channel: SFTPWrapper): void {
  const sftp = channel as unknown as SftpInternals
  const others = sftp.push.bind(sftp)
  const head = Buffer.alloc(headBytes)
  /** Bytes of `head` that have come. */
  let headed = 0
  /** Bytes of the packet that are still to come. */
  let left = 0
  /** Where they go; null: to ssh2. */
  let target: Buffer | null = null
  let filled = 0
  let request = 0

  sftp.push = (data) => {
    if (data === null) return others(null)
    let at = 0
    while (at < data.length) {
      if (left > 0) {
        const bytes = Math.min(left, data.length - at)
        if (target === null) others(Buffer.from(data.subarray(at, at + bytes)))
        else {
          data.copy(target, filled, at, at + bytes)
          filled += bytes
        }
        at += bytes
        left -= bytes
        if (left === 0 && target !== null) answered(target)
        continue
      }
      head[headed++] = data[at++]!
      // Other packets may be shorter than the head of this one.
      if (headed === 5 && head[4] !== dataType) pass()
      else if (headed === headBytes && !begin()) pass()
    }
  }

  /** Whether what follows are the bytes that a READ waits for, and no more than it asked for. */
  function begin(): boolean {
    request = head.readUInt32BE(5)
    const bytes = head.readUInt32BE(9)
    const wanted = sftp._requests[request]?.buffer
    if (!wanted || bytes === 0 || bytes > wanted.length || head.readUInt32BE(0) !== bytes + headBytes - 4) return false
    target = wanted
    filled = 0
    left = bytes
    headed = 0
    return true
  }

  function answered(buffer: Buffer): void {
    target = null
    const waiting = sftp._requests[request]
    delete sftp._requests[request]
    waiting?.cb(undefined, buffer, filled)
  }

  function pass(): void {
    target = null
    left = Math.max(0, head.readUInt32BE(0) + 4 - headed)
    others(Buffer.from(head.subarray(0, headed)))
    headed = 0
  }
}
