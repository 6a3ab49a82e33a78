import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Sshd, startSshd } from '../support/openssh.ts'
import { writeSource } from '../support/source-files.ts'

const reader = join(import.meta.dirname, '../support/read-remote.ts')
const sizeBytes = 3 * 1024 * 1024 + 13
const smallFiles = 300

const authenticated = ['aes128-gcm@openssh.com', 'aes256-gcm@openssh.com', 'chacha20-poly1305@openssh.com']
const macs = ['hmac-sha2-256-etm@openssh.com', 'hmac-sha2-512-etm@openssh.com', 'hmac-sha2-256', 'hmac-sha1']
/** Every way to seal a packet: with a tag, and with a MAC over the sealed or the open packet. */
const ways = [
  ...authenticated.map((cipher) => ({ cipher, hmac: 'hmac-sha2-256' })),
  ...macs.map((hmac) => ({ cipher: 'aes128-ctr', hmac })),
  { cipher: 'aes256-cbc', hmac: 'hmac-sha2-256' },
  { cipher: 'aes256-cbc', hmac: 'hmac-sha1-etm@openssh.com' }
]

describe.each([
  { binding: 'with ssh2’s native binding', flags: [] },
  { binding: 'without it', flags: ['--no-addons'] }
])('ciphers $binding', ({ flags }) => {
  let sshd: Sshd
  let slicer: { port: number; close(): Promise<void> }
  let sha256: string

  beforeAll(async () => {
    sshd = await startSshd({
      extraConfig: [
        'Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes256-cbc',
        `MACs ${[...macs, 'hmac-sha1-etm@openssh.com'].join(',')}`,
        'RekeyLimit 1M'
      ]
    })
    await writeSource(sshd.root, 'large', sizeBytes)
    for (let index = 0; index < smallFiles; index++) await writeFile(join(sshd.root, `small-${index}`), '')
    sha256 = createHash('sha256')
      .update(await readFile(join(sshd.root, 'large')))
      .digest('hex')
    slicer = await startSlicer(sshd.port)
  })
  afterAll(async () => {
    await slicer.close()
    await sshd.stop()
  })

  test.each(ways)('$cipher with $hmac: whole over several channels, in slices, through new keys', async (way) => {
    const target = {
      host: sshd.host,
      port: slicer.port,
      username: sshd.username,
      privateKey: sshd.privateKey,
      algorithms: { cipher: [way.cipher], hmac: [way.hmac] }
    }
    const job = JSON.stringify({ target, folder: sshd.root, name: 'large', sizeBytes })
    const { stdout } = await promisify(execFile)(process.execPath, [...flags, reader, job], { timeout: 60_000 })
    expect(JSON.parse(stdout)).toEqual({ sha256, entries: smallFiles + 1, isNative: flags.length === 0 })
  })
})

/** Passes bytes on in slices of 1 to 400 bytes, so that packets begin and end anywhere in what is read. */
async function startSlicer(port: number): Promise<{ port: number; close(): Promise<void> }> {
  const sockets = new Set<Socket>()
  const server: Server = createServer({ noDelay: true }, (inner) => {
    const outer = connect({ host: '127.0.0.1', port, noDelay: true })
    for (const socket of [inner, outer]) {
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
      socket.on('error', () => {
        inner.destroy()
        outer.destroy()
      })
    }
    inner.pipe(outer)
    // Ends with the connection, however that ends.
    sliced(outer, inner).catch(() => inner.destroy())
  })
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((closed) => server.close(closed))
    }
  }
}

async function sliced(from: Socket, to: Socket): Promise<void> {
  let slice = 1
  for await (const chunk of from) {
    for (let at = 0; at < chunk.length; ) {
      // A sequence that repeats late: the same slices in every run.
      slice = (slice * 48_271) % 2_147_483_647
      const end = Math.min(chunk.length, at + 1 + (slice % 400))
      to.write(chunk.subarray(at, end))
      at = end
      await new Promise((next) => setImmediate(next))
    }
  }
  to.end()
}
