import { symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from '@jest/globals'
import { startSftpServer } from '../../demo/sftp-server.ts'
import { connectSftp } from '../../drivers/sftp/connection.ts'
import { temporaryFolder } from '../support/process.ts'
import { sftpContract } from './sftp.contract.ts'

const users = { ada: 'a fine secret' }

sftpContract("ssh2's server", async () => {
  const folder = await temporaryFolder('ssh2')
  const server = await startSftpServer({ root: folder.path, users })
  const target = { host: '127.0.0.1', port: server.port, username: 'ada', password: users.ada }
  return {
    target,
    wrongTarget: { ...target, password: 'not the secret' },
    hostKey: server.hostKey,
    localRoot: folder.path,
    remoteRoot: '/',
    stop: async () => {
      await server.stop()
      await folder.remove()
    }
  }
})

test('the demo server lets no path and no link out of its folder', async () => {
  const folder = await temporaryFolder('jail')
  const outside = await temporaryFolder('outside')
  await writeFile(join(outside.path, 'secret'), 'secret')
  await symlink(outside.path, join(folder.path, 'way-out'))
  const server = await startSftpServer({ root: folder.path, users })
  const sftp = await connectSftp(
    { host: '127.0.0.1', port: server.port, username: 'ada', password: users.ada },
    { verifyHostKey: async () => {}, resolveAddress: async (host) => host }
  )
  await expect(sftp.stat('/way-out/secret')).rejects.toMatchObject({ type: 'SFTP_PERMISSION_DENIED' })
  await expect(sftp.open('/way-out/secret')).rejects.toMatchObject({ type: 'SFTP_PERMISSION_DENIED' })
  await expect(sftp.mkdir('/way-out/made')).rejects.toMatchObject({ type: 'SFTP_PERMISSION_DENIED' })
  expect(await sftp.realpath('../../..')).toBe('/')
  await sftp.close()
  await server.stop()
  await folder.remove()
  await outside.remove()
})
