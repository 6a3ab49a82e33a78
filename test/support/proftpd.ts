/** Debian's ProFTPD with mod_sftp as a process of the tests: own port, own host key, one user with a password. */
import { execFile } from 'node:child_process'
import { access, writeFile } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { newSshKey } from '../../demo/ssh-key.ts'
import { fingerprint } from './openssh.ts'
import { accepts, freePort } from './ports.ts'
import { onPath, startProcess, stopWithSessions, temporaryFolder } from './process.ts'

export interface Proftpd {
  host: '127.0.0.1'
  port: number
  username: string
  password: string
  /** "SHA256:…" */
  hostKey: string
  root: string
  pid: number
  /** What it logged so far. */
  log(): string
  /** Ends the listener and every session. */
  stop(): Promise<void>
}

const modules = '/usr/lib/proftpd'
const password = 'a fine secret'
/** `openssl passwd -6 -salt longshore` of it. */
const passwordHash =
  '$6$longshore$x.8hfzT9ZYLHbWqWncjj0UozQwcazciwdD8pi0vKmHzAeK6g4WoSDUX6sHNYCYf3dkYcRAzf3NcahtESJrifg1'

export async function startProftpd(): Promise<Proftpd> {
  const proftpd = await onPath('proftpd')
  const hasSftp = await access(`${modules}/mod_sftp.so`).then(
    () => true,
    () => false
  )
  if (!proftpd || !hasSftp)
    throw new Error(
      'proftpd or its mod_sftp is missing: install the Debian packages proftpd-core and proftpd-mod-crypto'
    )

  const folder = await temporaryFolder('proftpd')
  const ownRoot = await temporaryFolder('sftp-root')
  const at = (name: string) => join(folder.path, name)
  const remove = async () => {
    await folder.remove()
    await ownRoot.remove()
  }

  try {
    const key = newSshKey().private
    const { username: user, uid, gid } = userInfo()
    const group = (await promisify(execFile)('id', ['-gn'])).stdout.trim()
    const port = await freePort()
    await writeFile(at('host_key'), key, { mode: 0o600 })
    await writeFile(at('passwd'), `ada:${passwordHash}:${uid}:${gid}::${ownRoot.path}:/bin/sh\n`, { mode: 0o600 })
    await writeFile(at('proftpd.conf'), `${configuration({ port, user, group, at }).join('\n')}\n`)

    const running = await startProcess(proftpd, ['--nodaemon', '--config', at('proftpd.conf')], {
      // It says so before it listens.
      ready: async (output) => /standalone mode STARTUP/.test(output) && (await accepts(port))
    })
    return {
      host: '127.0.0.1',
      port,
      username: 'ada',
      password,
      hostKey: fingerprint(key),
      root: ownRoot.path,
      pid: running.pid,
      log: () => running.output(),
      stop: async () => {
        await stopWithSessions(running)
        await remove()
      }
    }
  } catch (error) {
    await remove()
    throw error
  }
}

function configuration(options: { port: number; user: string; group: string; at(name: string): string }): string[] {
  const { port, user, group, at } = options
  return [
    `ModulePath ${modules}`,
    'LoadModule mod_sftp.c',
    'ServerType standalone',
    'ServerName longshore',
    'UseIPv6 off',
    'DefaultAddress 127.0.0.1',
    `Port ${port}`,
    `User ${user}`,
    `Group ${group}`,
    'RootLogin on',
    'UseReverseDNS off',
    'WtmpLog off',
    `PidFile ${at('pid')}`,
    `ScoreboardFile ${at('scoreboard')}`,
    `DelayTable ${at('delay')}`,
    'DelayEngine off',
    'TransferLog none',
    'AuthOrder mod_auth_file.c',
    `AuthUserFile ${at('passwd')}`,
    'RequireValidShell off',
    'SFTPEngine on',
    `SFTPHostKey ${at('host_key')}`,
    'SFTPAuthMethods password'
  ]
}
