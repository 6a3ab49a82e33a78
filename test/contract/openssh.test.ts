import { randomBytes } from 'node:crypto'
import { realpath, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from '@jest/globals'
import { newSshKey } from '../../demo/ssh-key.ts'
import { connectSftp } from '../../drivers/sftp/connection.ts'
import type { ConnectOptions, Pace, SftpTarget } from '../../drivers/sftp/sftp.ts'
import { type Sshd, type SshdOptions, startSshd } from '../support/openssh.ts'
import { startProxy } from '../support/proxy.ts'
import { sftpContract } from './sftp.contract.ts'

const options: ConnectOptions = { verifyHostKey: async () => {}, resolveAddress: async (host) => host }

const targetOf = (sshd: Sshd): SftpTarget => ({
  host: sshd.host,
  port: sshd.port,
  username: sshd.username,
  privateKey: sshd.privateKey
})

sftpContract('OpenSSH', async () => {
  const sshd = await startSshd()
  const target = targetOf(sshd)
  const localRoot = await realpath(sshd.root)
  return {
    target,
    wrongTarget: { ...target, privateKey: newSshKey().private },
    hostKey: sshd.hostKey,
    localRoot,
    remoteRoot: localRoot,
    stop: sshd.stop
  }
})

describe('OpenSSH with limits', () => {
  let sshd: Sshd | null = null
  const start = async (more: SshdOptions) => {
    sshd = await startSshd(more)
    return sshd
  }
  afterEach(async () => {
    await sshd?.stop()
    sshd = null
  })

  test('learns how many channels may be open and goes on with those', async () => {
    const { root } = await start({ maxSessions: 2 })
    await writeFile(join(root, 'file'), 'hello')
    const sftp = await connectSftp(targetOf(sshd!), options)
    const files = await Promise.all([1, 2, 3, 4].map((channel) => sftp.open(join(root, 'file'), { channel })))
    expect(sftp.maxChannels).toBe(2)
    for (const file of files) {
      expect((await file.readSmall(5)).toString()).toBe('hello')
      await file.close()
    }
    await sftp.close()
  })

  test('asks for as much at once as the server takes, and for less where the rate is limited', async () => {
    await start({})
    const sftp = await connectSftp(targetOf(sshd!), options)
    expect([sftp.readBytes, sftp.maxChannels]).toEqual([255 * 1024, 10])
    const pace: Pace = { bytesPerSecond: null, take: () => 0, giveBack: () => {} }
    sftp.limitTo(pace)
    expect([sftp.readBytes, sftp.maxChannels]).toEqual([255 * 1024, 10])
    sftp.limitTo({ ...pace, bytesPerSecond: 256 * 1024 })
    expect([sftp.readBytes, sftp.maxChannels]).toEqual([128 * 1024, 4])
    await sftp.close()
  })

  test('ends with the last of those who hold it', async () => {
    await start({})
    const sftp = await connectSftp(targetOf(sshd!), options)
    sftp.retain()
    await sftp.close()
    expect(await sftp.realpath('/')).toBe('/')
    await sftp.close()
    expect(sftp.closed.aborted).toBe(true)
    await expect(sftp.realpath('/')).rejects.toMatchObject({ type: 'CANCELLED' })
  })

  test('agrees on AES-GCM where the server knows it, and on an old cipher only where one is named', async () => {
    await start({ logLevel: 'DEBUG' })
    const modern = await connectSftp(targetOf(sshd!), options)
    await modern.close()
    expect(sshd!.log()).toMatch(/kex: server->client cipher: aes128-gcm@openssh\.com/)
    await sshd!.stop()
    await start({ extraConfig: ['Ciphers aes256-cbc'] })
    await expect(connectSftp(targetOf(sshd!), options)).rejects.toMatchObject({ type: 'SFTP_PROTOCOL' })
    const old = await connectSftp({ ...targetOf(sshd!), algorithms: { cipher: ['aes256-cbc'] } }, options)
    await old.close()
  })

  test('reports a server that opens no session at all', async () => {
    await start({ maxSessions: 0 })
    await expect(connectSftp(targetOf(sshd!), options)).rejects.toMatchObject({ type: 'SFTP_TOO_MANY_SESSIONS' })
  })

  test('reads through changes of the session keys and verifies the host once', async () => {
    const { root, log } = await start({ extraConfig: ['RekeyLimit 1M'], logLevel: 'DEBUG' })
    const content = randomBytes(16 * 1024 * 1024)
    await writeFile(join(root, 'file'), content)
    let verified = 0
    const verifyHostKey = async () => {
      verified++
    }
    const sftp = await connectSftp(targetOf(sshd!), { ...options, verifyHostKey })
    const file = await sftp.open(join(root, 'file'), { channel: 1 })
    expect((await file.readSmall(content.length)).equals(content)).toBe(true)
    expect(verified).toBe(1)
    // Once for each direction and MiB, and a few fewer where blocks are on their way.
    expect(log().match(/rekeying/g)?.length ?? 0).toBeGreaterThan(8)
    await file.close()
    await sftp.close()
  })

  test('dials the address that was looked at, whatever its name would lead to a moment later', async () => {
    await start({})
    const asked: string[] = []
    const resolveAddress = async (host: string) => {
      asked.push(host)
      return '127.0.0.1'
    }
    const sftp = await connectSftp({ ...targetOf(sshd!), host: 'rebound.invalid' }, { ...options, resolveAddress })
    expect(asked).toEqual(['rebound.invalid'])
    await sftp.close()
  })

  test('measures the latency of a distant server', async () => {
    await start({})
    const proxy = await startProxy({ target: { host: '127.0.0.1', port: sshd!.port }, delayMs: 60 })
    const sftp = await connectSftp({ ...targetOf(sshd!), port: proxy.port }, options)
    expect(sftp.latencyMs).toBeGreaterThanOrEqual(60)
    expect(sftp.latencyMs).toBeLessThan(1000)
    await sftp.close()
    await proxy.close()
  })

  test('shows a wrong key to the server once', async () => {
    await start({})
    const privateKey = newSshKey().private
    await expect(connectSftp({ ...targetOf(sshd!), privateKey }, options)).rejects.toMatchObject({
      type: 'SFTP_AUTH_FAILED'
    })
    expect(sshd!.log().match(/Failed publickey/g)).toHaveLength(1)
  })
})
