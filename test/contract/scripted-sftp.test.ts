/** Servers that answer in ways the protocol permits and that wreck careless pipelining: short, late, split, out of order. */
import { randomFillSync } from 'node:crypto'
import { once } from 'node:events'
import { realpath, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from '@jest/globals'
import ssh2, { type Connection, type ServerChannel, type Session, type SFTPWrapper } from 'ssh2'
import { serveFolder } from '../../demo/sftp-folder.ts'
import { newSshKey } from '../../demo/ssh-key.ts'
import { connectSftp } from '../../drivers/sftp/connection.ts'
import type { Sftp, SftpTarget } from '../../drivers/sftp/sftp.ts'
import { fingerprint, startSshd } from '../support/openssh.ts'
import { temporaryFolder } from '../support/process.ts'
import { type ContractServer, sftpContract } from './sftp.contract.ts'

const { STATUS_CODE } = ssh2.utils.sftp
const hostKey = newSshKey().private
const username = 'ada'
const password = 'a fine secret'

interface Scripted {
  target: SftpTarget
  stop(): Promise<void>
}

type OnSession = (session: Session, connection: Connection) => void

/** An SSH server in this process that calls itself `ident`; `onSession` makes of a session what it likes. */
async function serve(onSession: OnSession, ident = 'scripted'): Promise<Scripted> {
  const connections = new Set<Connection>()
  const server = new ssh2.Server({ hostKeys: [hostKey], ident }, (connection) => {
    connections.add(connection)
    connection.on('error', () => connection.end())
    connection.on('close', () => connections.delete(connection))
    connection.on('authentication', (attempt) => {
      if (attempt.method === 'password' && attempt.password === password) attempt.accept()
      else attempt.reject(['password'])
    })
    connection.on('session', (accept) => onSession(accept(), connection))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    target: { host: '127.0.0.1', port, username, password },
    stop: async () => {
      const closed = once(server, 'close')
      server.close()
      for (const connection of connections) connection.end()
      await closed
    }
  }
}

interface Read {
  offset: number
  length: number
  answer(content: Buffer | 'EOF'): void
}

/** One file that can be opened, whose READs go to `onRead`. */
function serveReads(sftp: SFTPWrapper, onRead: (read: Read) => void): void {
  sftp.on('REALPATH', (id) => sftp.status(id, STATUS_CODE.FAILURE))
  sftp.on('OPEN', (id) => sftp.handle(id, Buffer.from('file')))
  sftp.on('CLOSE', (id) => sftp.status(id, STATUS_CODE.OK))
  sftp.on('READ', (id, _handle, offset, length) => {
    const answer = (content: Buffer | 'EOF') => {
      if (content === 'EOF') sftp.status(id, STATUS_CODE.EOF)
      else sftp.data(id, content)
    }
    onRead({ offset, length, answer })
  })
}

/** Keeps what comes in together and hands it over in reverse; `onBatch` hears how many there were. */
function reversed<T>(handle: (one: T) => void, onBatch: (size: number) => void = () => {}): (one: T) => void {
  let waiting: T[] = []
  return (one) => {
    if (waiting.push(one) > 1) return
    setImmediate(() => {
      const batch = waiting.reverse()
      waiting = []
      onBatch(batch.length)
      for (const each of batch) handle(each)
    })
  }
}

const connect = (target: SftpTarget, verifyHostKey = async () => {}) =>
  connectSftp(target, { verifyHostKey, resolveAddress: async (host) => host })

const shortOf = ({ offset, length }: { offset: number; length: number }) => Math.min(length, 1 + ((offset * 31) % 9973))

async function openUnruly(): Promise<ContractServer> {
  const folder = await temporaryFolder('unruly')
  const root = await realpath(folder.path)
  const { target, stop } = await serve((session) => {
    session.on('sftp', (acceptSftp) => {
      const sftp = acceptSftp()
      serveFolder(sftp, root)
      type OnRead = (id: number, handle: Buffer, offset: number, length: number) => void
      const read = sftp.listeners('READ')[0] as OnRead
      const later = reversed<Parameters<OnRead>>((args) => read(...args))
      sftp.removeAllListeners('READ')
      sftp.on('READ', (id, handle, offset, length) => later([id, handle, offset, shortOf({ offset, length })]))
    })
  })
  return {
    target,
    wrongTarget: { ...target, password: 'not the secret' },
    hostKey: fingerprint(hostKey),
    localRoot: root,
    remoteRoot: '/',
    stop: async () => {
      await stop()
      await folder.remove()
    }
  }
}

sftpContract('a server that answers short and out of order', openUnruly)

describe('a scripted server', () => {
  const content = randomFillSync(Buffer.alloc(4 * 1024 * 1024 + 321))
  let scripted: Scripted | null = null
  let sftp: Sftp | null = null

  afterEach(async () => {
    await sftp?.close()
    await scripted?.stop()
    sftp = null
    scripted = null
  })

  async function openFile(onRead: (read: Read, connection: Connection) => void, verify?: () => Promise<void>) {
    scripted = await serve((session, connection) => {
      session.on('sftp', (acceptSftp) => serveReads(acceptSftp(), (read) => onRead(read, connection)))
    })
    sftp = await connect(scripted.target, verify)
    return sftp.open('/file')
  }
  const at = ({ offset, length }: Pick<Read, 'offset' | 'length'>) => content.subarray(offset, offset + length)

  test('puts answers that come in reverse into their order', async () => {
    const batches: number[] = []
    const answer = reversed<Read>(
      (read) => read.answer(at(read)),
      (size) => batches.push(size)
    )
    const file = await openFile(answer)
    expect((await file.readSmall(content.length)).equals(content)).toBe(true)
    expect(Math.max(...batches)).toBeGreaterThan(10)
    await file.close()
  })

  test('holds back what follows the first block until that is there', async () => {
    let first: Read | null = null
    let answered = 0
    const enough = Promise.withResolvers<void>()
    const file = await openFile((read) => {
      if (read.offset === 0 && !first) first = read
      else {
        read.answer(at(read))
        if (++answered === 20) enough.resolve()
      }
    })
    const blocks = file.blocks(0, content.length)[Symbol.asyncIterator]()
    let given = false
    const block = blocks.next().finally(() => {
      given = true
    })
    await enough.promise
    // One more round trip: all that was answered has arrived before this answer.
    await sftp!.realpath('/').catch(() => {})
    expect(given).toBe(false)
    first!.answer(at(first!))
    const { bytes } = (await block).value!
    expect(bytes.equals(content.subarray(0, bytes.length))).toBe(true)
    await blocks.return!()
    await file.close()
  })

  test.each([0, 3, 3.5])('reports a file that ends after %d blocks, and names no byte that it has', async (blocks) => {
    let size = 0
    const file = await openFile((read) => {
      const bytes = content.subarray(read.offset, Math.min(read.offset + read.length, size))
      read.answer(bytes.length > 0 ? bytes : 'EOF')
    })
    size = sftp!.readBytes * blocks
    const error = await file.readSmall(content.length).catch((thrown) => thrown)
    expect(error).toMatchObject({ type: 'SOURCE_CHANGED', data: { path: '/file', expectedBytes: content.length } })
    expect(error.data.atByte).toBeGreaterThanOrEqual(size)
    expect(error.data.atByte).toBeLessThanOrEqual(size + sftp!.readBytes)
    expect(error.message).toContain(`has no byte ${error.data.atByte}`)
    await file.close()
  })

  test('reports an end that arrives before the bytes ahead of it, and reads on rightly after that', async () => {
    let size = 1_000_000
    const answer = reversed<Read>((read) => {
      const bytes = content.subarray(read.offset, Math.min(read.offset + read.length, size))
      read.answer(bytes.length > 0 ? bytes : 'EOF')
    })
    const file = await openFile(answer)
    await expect(file.readSmall(content.length)).rejects.toMatchObject({ type: 'SOURCE_CHANGED' })
    size = content.length
    expect((await file.readSmall(content.length)).equals(content)).toBe(true)
    await file.close()
  })

  test('takes an empty answer for the end instead of asking for ever', async () => {
    let reads = 0
    const file = await openFile((read) => {
      reads++
      read.answer(read.offset < 64_000 ? at(read).subarray(0, 1000) : Buffer.alloc(0))
    })
    await expect(file.readSmall(content.length)).rejects.toMatchObject({ type: 'SOURCE_CHANGED' })
    expect(reads).toBeLessThan(1000)
    await file.close()
  })

  test.each([
    ['an OpenSSH before 8.5', 'OpenSSH_7.4', 64 * 1024],
    // ssh2 would split a longer one into two, one after the other.
    ['one that is no OpenSSH', 'scripted', 31_952]
  ])('asks %s for no more than one READ brings', async (_, ident, readBytes) => {
    const asked: number[] = []
    const onRead = (read: Read) => {
      asked.push(read.length)
      read.answer(at({ ...read, length: Math.min(read.length, readBytes) }))
    }
    const onSession: OnSession = (session) => session.on('sftp', (acceptSftp) => serveReads(acceptSftp(), onRead))
    scripted = await serve(onSession, ident)
    sftp = await connect(scripted.target)
    const file = await sftp.open('/file')
    expect((await file.readSmall(content.length)).equals(content)).toBe(true)
    expect(asked).toHaveLength(Math.ceil(content.length / readBytes))
    await file.close()
  })

  test('takes of an answer no more than was asked for', async () => {
    const file = await openFile((read) => read.answer(at({ ...read, length: read.length + 1000 })))
    expect((await file.readSmall(1_000_000)).equals(content.subarray(0, 1_000_000))).toBe(true)
    await file.close()
  })

  test('reads through a change of the session keys in mid-file, and verifies the host once', async () => {
    let reads = 0
    let rekeyed = 0
    let verified = 0
    const onRead = (read: Read, connection: Connection) => {
      read.answer(at(read))
      if (++reads % 40 === 0) {
        connection.rekey(() => {
          rekeyed++
        })
      }
    }
    const file = await openFile(onRead, async () => {
      verified++
    })
    expect((await file.readSmall(content.length)).equals(content)).toBe(true)
    expect((await file.readSmall(content.length)).equals(content)).toBe(true)
    expect(rekeyed).toBeGreaterThan(1)
    expect(verified).toBe(1)
    await file.close()
  })

  test('understands answers that come in packets of a few bytes, their lengths split too', async () => {
    scripted = await serve((session) => {
      session.on('subsystem', (acceptSubsystem) => serveTinyPackets(acceptSubsystem(), content.subarray(0, 50_000)))
    })
    sftp = await connect(scripted.target)
    const file = await sftp.open('/file')
    expect((await file.readSmall(50_000)).equals(content.subarray(0, 50_000))).toBe(true)
    await file.close()
  })
})

test('four channels at once read through the changes of keys that OpenSSH makes', async () => {
  const sshd = await startSshd({ extraConfig: ['RekeyLimit 256K'] })
  const content = randomFillSync(Buffer.alloc(8 * 1024 * 1024))
  const path = join(await realpath(sshd.root), 'file')
  await writeFile(path, content)
  const sftp = await connect(sshd)
  const ranges = await Promise.all(
    [1, 2, 3, 4].map(async (channel) => {
      const file = await sftp.open(path, { channel })
      const range = await file.readSmall(content.length)
      await file.close()
      return range.equals(content)
    })
  )
  expect(ranges).toEqual([true, true, true, true])
  await sftp.close()
  await sshd.stop()
})

const INIT = 1
const VERSION = 2
const OPEN = 3
const READ = 5
const STATUS = 101
const HANDLE = 102
const DATA = 103

/** SFTP by hand: ssh2's server cannot be made to split its answers. */
function serveTinyPackets(channel: ServerChannel, content: Buffer): void {
  let input = Buffer.alloc(0)
  const send = (type: number, ...parts: Buffer[]) => {
    const body = Buffer.concat([Buffer.from([type]), ...parts])
    const packet = Buffer.concat([uint32(body.length), body])
    for (let start = 0; start < packet.length; start += 7) channel.write(packet.subarray(start, start + 7))
  }
  const status = (id: Buffer, code: number) => send(STATUS, id, uint32(code), uint32(0), uint32(0))
  const answer = (type: number, rest: Buffer) => {
    const id = rest.subarray(0, 4)
    if (type === INIT) return send(VERSION, uint32(3))
    if (type === OPEN) return send(HANDLE, id, uint32(1), Buffer.from('f'))
    if (type !== READ) return status(id, STATUS_CODE.OK)
    // The handle is one byte long: id, its length, itself, the offset's two halves, the length.
    const offset = rest.readUInt32BE(13)
    const bytes = content.subarray(offset, offset + rest.readUInt32BE(17))
    if (bytes.length === 0) status(id, STATUS_CODE.EOF)
    else send(DATA, id, uint32(bytes.length), bytes)
  }
  channel.on('data', (data: Buffer) => {
    input = Buffer.concat([input, data])
    while (input.length >= 4 && input.length >= 4 + input.readUInt32BE(0)) {
      const end = 4 + input.readUInt32BE(0)
      answer(input[4]!, input.subarray(5, end))
      input = input.subarray(end)
    }
  })
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
