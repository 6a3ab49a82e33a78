/** An SFTP server in this process with more small files in its one folder than a test would write: they are made up. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import ssh2, { type Attributes, type Connection, type FileEntry, type SFTPWrapper } from 'ssh2'
import { newSshKey } from '../../demo/ssh-key.ts'

export interface CrowdedSftp {
  /** What a server's registration has to say of it. */
  address: { host: '127.0.0.1'; port: number; username: string; password: string }
  /** Connections that were made so far, and the most that were open at a time. */
  readonly connections: { made: number; peak: number }
  stop(): Promise<void>
}

const { STATUS_CODE } = ssh2.utils.sftp
const PAGE = 100
const content = Buffer.from('0123456789')
const [username, password] = ['ada', 'a-fine-password']
const file: Attributes = { mode: 0o100644, uid: 0, gid: 0, size: content.length, atime: 1.7e9, mtime: 1.7e9 }
const folder: Attributes = { ...file, mode: 0o40755 }

/** `count` files of ten bytes in its root, named by their number. */
export async function startCrowdedSftp(count: number): Promise<CrowdedSftp> {
  const connections = new Set<Connection>()
  const seen = { made: 0, peak: 0 }
  const server = new ssh2.Server({ hostKeys: [newSshKey().private] }, (connection) => {
    connections.add(connection)
    seen.made++
    seen.peak = Math.max(seen.peak, connections.size)
    // Without it each small answer waits for the client's delayed ACK; ssh2's types do not know the method.
    ;(connection as unknown as { setNoDelay(on: boolean): void }).setNoDelay(true)
    connection.on('error', () => connection.end())
    connection.on('close', () => connections.delete(connection))
    connection.on('authentication', (attempt) => {
      if (attempt.method === 'password' && attempt.password === password) attempt.accept()
      else attempt.reject(['password'])
    })
    connection.on('session', (accept) => accept().on('sftp', (acceptSftp) => serve(acceptSftp(), count)))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    address: { host: '127.0.0.1', port, username, password },
    connections: seen,
    async stop() {
      const closed = once(server, 'close')
      server.close()
      for (const connection of connections) connection.end()
      await closed
    }
  }
}

function serve(sftp: SFTPWrapper, count: number): void {
  // One listing after the other is all that a scanner does with a connection.
  let listed = 0
  const attributes = (id: number, path: string) => sftp.attrs(id, path === '/' ? folder : file)
  sftp.on('REALPATH', (id) => sftp.name(id, [{ filename: '/', longname: '/', attrs: folder }]))
  sftp.on('STAT', attributes)
  sftp.on('LSTAT', attributes)
  sftp.on('FSTAT', (id) => sftp.attrs(id, file))
  sftp.on('OPENDIR', (id) => {
    listed = 0
    sftp.handle(id, Buffer.from('folder'))
  })
  sftp.on('READDIR', (id) => {
    const page = Array.from({ length: Math.min(PAGE, count - listed) }, (_, index) => entry(listed + index))
    listed += page.length
    if (page.length > 0) sftp.name(id, page)
    else sftp.status(id, STATUS_CODE.EOF)
  })
  sftp.on('OPEN', (id) => sftp.handle(id, Buffer.from('file')))
  sftp.on('READ', (id, _handle, offset, length) => {
    if (offset >= content.length) sftp.status(id, STATUS_CODE.EOF)
    else sftp.data(id, content.subarray(offset, offset + length))
  })
  sftp.on('CLOSE', (id) => sftp.status(id, STATUS_CODE.OK))
}

function entry(number: number): FileEntry {
  const filename = String(number).padStart(6, '0')
  return { filename, longname: `-rw-r--r-- 1 0 0 ${content.length} ${filename}`, attrs: file }
}
