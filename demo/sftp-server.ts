/** A small SFTP server in this process, on ssh2's own `Server`: serves one folder to a few named users. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { realpath } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import ssh2, { type AuthContext, type Connection } from 'ssh2'
import { serveFolder } from './sftp-folder.ts'
import { newSshKey } from './ssh-key.ts'

export interface SftpServerOptions {
  /** The folder that users see as "/". */
  root: string
  /** Passwords by user name. */
  users: Record<string, string>
  /** The address to listen on; default 127.0.0.1. */
  host?: string
  /** 0, the default, takes a free one. */
  port?: number
  /** A private key in OpenSSH's format; a new one when absent. */
  hostKey?: string
}

export interface SftpServer {
  port: number
  /** "SHA256:…" */
  hostKey: string
  /** Closes every connection. */
  stop(): Promise<void>
}

/** Starts the server. */
export async function startSftpServer(options: SftpServerOptions): Promise<SftpServer> {
  const root = await realpath(options.root)
  const hostKey = options.hostKey ?? newSshKey().private
  const connections = new Set<Connection>()

  const server = new ssh2.Server({ hostKeys: [hostKey] }, (connection) => {
    connections.add(connection)
    // Without it each small answer waits for the client's delayed ACK, about 40 ms.
    // ssh2 has the method; its types do not.
    ;(connection as unknown as { setNoDelay(on: boolean): void }).setNoDelay(true)
    connection.on('error', () => connection.end())
    connection.on('close', () => connections.delete(connection))
    connection.on('authentication', (attempt) => authenticate(attempt, options.users))
    connection.on('session', (accept) => {
      const session = accept()
      session.on('sftp', (acceptSftp) => serveFolder(acceptSftp(), root))
    })
  })
  server.listen(options.port ?? 0, options.host ?? '127.0.0.1')
  await once(server, 'listening')

  return {
    port: (server.address() as AddressInfo).port,
    hostKey: fingerprintOf(hostKey),
    stop: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      for (const connection of connections) connection.end()
      await closed
    }
  }
}

function authenticate(attempt: AuthContext, users: Record<string, string>): void {
  const password = Object.hasOwn(users, attempt.username) ? users[attempt.username] : undefined
  if (attempt.method === 'password' && password !== undefined && same(attempt.password, password)) attempt.accept()
  else attempt.reject(['password'])
}

function same(given: string, expected: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given), digest(expected))
}

function fingerprintOf(privateKey: string): string {
  const key = ssh2.utils.parseKey(privateKey)
  if (key instanceof Error) throw key
  return `SHA256:${createHash('sha256').update(key.getPublicSSH()).digest('base64').replace(/=+$/, '')}`
}
