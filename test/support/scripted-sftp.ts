/** An SFTP server in this process that counts the logins it sees and may refuse to open chosen files. */
import { once } from 'node:events'
import { realpath } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import ssh2, { type Connection } from 'ssh2'
import { serveFolder } from '../../demo/sftp-folder.ts'
import { newSshKey } from '../../demo/ssh-key.ts'

export interface ScriptedSftp {
  host: '127.0.0.1'
  port: number
  username: string
  /** The one that it began with. */
  password: string
  /** Passwords that were shown to it. */
  readonly logins: number
  /** Takes no other from now on, and hangs up on everybody. */
  changePassword(to: string): void
  stop(): Promise<void>
}

const { STATUS_CODE } = ssh2.utils.sftp

/** `refuses` says of a path, as the client names it, that nobody may open it. */
export async function startScriptedSftp(
  folder: string,
  refuses: (path: string) => boolean = () => false
): Promise<ScriptedSftp> {
  const root = await realpath(folder)
  const hostKeys = [newSshKey().private]
  const connections = new Set<Connection>()
  const [username, password] = ['ada', 'a-fine-password']
  let logins = 0
  let wanted = password
  const server = new ssh2.Server({ hostKeys }, (connection) => {
    connections.add(connection)
    connection.on('error', () => connection.end())
    connection.on('close', () => connections.delete(connection))
    connection.on('authentication', (attempt) => {
      if (attempt.method !== 'password') return attempt.reject(['password'])
      logins++
      if (attempt.username === username && attempt.password === wanted) attempt.accept()
      else attempt.reject(['password'])
    })
    connection.on('session', (accept) => {
      accept().on('sftp', (acceptSftp) => {
        const sftp = acceptSftp()
        serveFolder(sftp, root)
        const open = sftp.listeners('OPEN')[0] as (id: number, path: string, ...rest: unknown[]) => void
        sftp.removeAllListeners('OPEN')
        sftp.on('OPEN', (id, path, ...rest) => {
          if (refuses(path)) sftp.status(id, STATUS_CODE.PERMISSION_DENIED)
          else open(id, path, ...rest)
        })
      })
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    host: '127.0.0.1',
    port: (server.address() as AddressInfo).port,
    username,
    password,
    get logins() {
      return logins
    },
    changePassword(to) {
      wanted = to
      for (const connection of connections) connection.end()
    },
    async stop() {
      const closed = once(server, 'close')
      server.close()
      for (const connection of connections) connection.end()
      await closed
    }
  }
}
