/** SFTP servers that do what the protocol permits and well-known ones do not: each is a few lines on ssh2's `Server`. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, test } from '@jest/globals'
import ssh2, { type AuthContext, type Server, type SFTPWrapper } from 'ssh2'
import { newSshKey } from '../../demo/ssh-key.ts'
import { connectSftp } from '../../drivers/sftp/connection.ts'
import type { Entry } from '../../drivers/sftp/sftp.ts'

const { STATUS_CODE } = ssh2.utils.sftp
const hostKey = newSshKey().private
let server: Server | null = null

afterEach(async () => {
  if (server) await new Promise((resolve) => server!.close(resolve))
  server = null
})

async function serve(authenticate: (attempt: AuthContext) => void, onSftp: (sftp: SFTPWrapper) => void) {
  server = new ssh2.Server({ hostKeys: [hostKey] }, (connection) => {
    connection.on('error', () => {})
    connection.on('authentication', authenticate)
    connection.on('session', (accept) => accept().on('sftp', (acceptSftp) => onSftp(acceptSftp())))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port, username: 'ada', password: 'secret' }
}

const connect = (target: Parameters<typeof connectSftp>[0]) =>
  connectSftp(target, { verifyHostKey: async () => {}, resolveAddress: async (host) => host })
const accept = (attempt: AuthContext) => attempt.accept()
const silentAbout = (sftp: SFTPWrapper) => sftp.on('REALPATH', (id) => sftp.status(id, STATUS_CODE.FAILURE))

test('answers a password by keyboard-interactive where only that is taken', async () => {
  const target = await serve((attempt) => {
    if (attempt.method !== 'keyboard-interactive') return attempt.reject(['keyboard-interactive'])
    attempt.prompt([{ prompt: 'Password: ', echo: false }], (answers) =>
      answers[0] === 'secret' ? attempt.accept() : attempt.reject()
    )
  }, silentAbout)
  const sftp = await connect(target)
  await sftp.close()
})

test('shows a password to a server once, whatever ways that server takes', async () => {
  const attempts: string[] = []
  const target = await serve((attempt) => {
    attempts.push(attempt.method)
    attempt.reject(['password', 'keyboard-interactive'])
  }, silentAbout)
  await expect(connect(target)).rejects.toMatchObject({
    type: 'SFTP_AUTH_FAILED',
    message: expect.stringContaining('password, keyboard-interactive')
  })
  expect(attempts).toEqual(['none', 'password'])
})

test('refuses a server that asks for a second factor', async () => {
  const target = await serve((attempt) => {
    if (attempt.method !== 'keyboard-interactive') return attempt.reject(['keyboard-interactive'])
    attempt.prompt(['Password: ', 'Code: '], () => attempt.reject())
  }, silentAbout)
  await expect(connect(target)).rejects.toMatchObject({ type: 'SFTP_AUTH_FAILED' })
})

test('reports a server without SFTP', async () => {
  const target = await serve(accept, () => {})
  server!.removeAllListeners('connection')
  server!.on('connection', (connection) => {
    connection.on('authentication', accept)
    connection.on('session', (acceptSession) => acceptSession())
  })
  await expect(connect(target)).rejects.toMatchObject({ type: 'SFTP_PROTOCOL' })
})

test('fills a block from a server that answers with less than was asked for', async () => {
  const content = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251))
  const target = await serve(accept, (sftp) => {
    silentAbout(sftp)
    sftp.on('OPEN', (id) => sftp.handle(id, Buffer.from('file')))
    sftp.on('READ', (id, _handle, offset, length) => {
      const bytes = content.subarray(offset, offset + Math.min(length, 1 + (offset % 3000)))
      if (bytes.length === 0) sftp.status(id, STATUS_CODE.EOF)
      else sftp.data(id, bytes)
    })
    sftp.on('CLOSE', (id) => sftp.status(id, STATUS_CODE.OK))
  })
  const sftp = await connect(target)
  const file = await sftp.open('/file')
  expect((await file.readSmall(content.length)).equals(content)).toBe(true)
  await expect(file.readSmall(content.length + 1)).rejects.toMatchObject({ type: 'SOURCE_CHANGED' })
  await file.close()
  await sftp.close()
})

test('flags names that would lead out of their folder, and ends at an empty page', async () => {
  const names = ['.', '..', '../evil', '/etc/passwd', 'nul\0', 'plain']
  const target = await serve(accept, (sftp) => {
    let pages = 0
    silentAbout(sftp)
    sftp.on('OPENDIR', (id) => sftp.handle(id, Buffer.from('folder')))
    sftp.on('READDIR', (id) => {
      const page = pages++ === 0 ? [...names, ''] : []
      sftp.name(
        id,
        page.map((filename) => ({ filename, longname: `-rw------- 1 a a 0 ${filename}`, attrs: {} as never }))
      )
    })
    sftp.on('CLOSE', (id) => sftp.status(id, STATUS_CODE.OK))
  })
  const sftp = await connect(target)
  const entries: Entry[] = []
  for await (const page of sftp.list('/')) entries.push(...page)
  expect(entries.map(({ name, badName, kind }) => [name, badName, kind])).toEqual([
    ['../evil', 'contains a slash', 'file'],
    ['/etc/passwd', 'contains a slash', 'file'],
    ['nul\0', 'contains a NUL', 'file'],
    ['plain', null, 'file'],
    ['', 'empty', 'file']
  ])
  await sftp.close()
})
