/** Debian's OpenSSH server as a process of the tests: own port, own keys, key login of the current user. */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import ssh2 from 'ssh2'
import { newSshKey } from '../../demo/ssh-key.ts'
import { connectSftp } from '../../drivers/sftp/connection.ts'
import type { ConnectOptions, Sftp } from '../../drivers/sftp/sftp.ts'
import { freePort } from './ports.ts'
import { onPath, startProcess, stopWithSessions, temporaryFolder } from './process.ts'

export interface SshdOptions {
  /** Where sessions start; a new temporary folder when absent. */
  root?: string
  maxSessions?: number
  /** As sshd_config has it, for example "1:100:1". */
  maxStartups?: string
  /** As sshd_config has it; by default VERBOSE. */
  logLevel?: string
  /** More lines for its configuration, for example "RekeyLimit 1M". */
  extraConfig?: string[]
  /** Keeps an earlier server's port, to come back in its place. */
  port?: number
  /** Writes down what is read of each file, for `readBytes`. */
  isCountingReads?: boolean
}

export interface Sshd {
  host: '127.0.0.1'
  port: number
  username: string
  privateKey: string
  /** "SHA256:…" */
  hostKey: string
  root: string
  pid: number
  /** What it logged so far. */
  log(): string
  /** By path, what was read of each file over all handles that are closed; a READ twice counts twice. */
  readBytes(): Promise<Map<string, number>>
  /** Ends the listener and every session. */
  stop(): Promise<void>
}

export async function startSshd(options: SshdOptions = {}): Promise<Sshd> {
  const sshd = await onPath('sshd')
  if (!sshd)
    throw new Error('sshd is missing: install the Debian package openssh-server (apt-get install openssh-server)')

  const folder = await temporaryFolder('sshd')
  const ownRoot = options.root === undefined ? await temporaryFolder('sftp-root') : null
  const root = options.root ?? ownRoot!.path
  const at = (name: string) => join(folder.path, name)
  const remove = async () => {
    await folder.remove()
    await ownRoot?.remove()
  }

  try {
    // sshd insists on this folder, which Debian makes at boot only.
    if (process.getuid?.() === 0) await promisify(execFile)('mkdir', ['-p', '-m', '0755', '/run/sshd'])
    const host = newSshKey()
    const user = newSshKey()
    await writeFile(at('host_key'), host.private, { mode: 0o600 })
    await writeFile(at('authorized_keys'), `${user.public}\n`, { mode: 0o600 })
    const port = options.port ?? (await freePort())
    await writeFile(at('sshd_config'), `${configuration({ ...options, port, root, at }).join('\n')}\n`)

    const running = await startProcess(sshd, ['-D', '-e', '-f', at('sshd_config')], { ready: /Server listening on/ })
    return {
      host: '127.0.0.1',
      port,
      username: userInfo().username,
      privateKey: user.private,
      hostKey: fingerprint(host.private),
      root,
      pid: running.pid,
      log: () => running.output(),
      readBytes: async () => readBytesOf(await readFile(at(READS), 'utf8').catch(() => '')),
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

/** A connection as its user; the port may be that of a proxy. */
export function connectTo(sshd: Sshd, more: Partial<ConnectOptions> = {}): Promise<Sftp> {
  const { host, port, username, privateKey } = sshd
  const trusting = { verifyHostKey: async () => {}, resolveAddress: async (name: string) => name }
  return connectSftp({ host, port, username, privateKey }, { ...trusting, ...more })
}

const READS = 'reads.log'

/** OpenSSH's `sftp-server` says at the end of each handle what was read over it. */
function readBytesOf(log: string): Map<string, number> {
  const bytes = new Map<string, number>()
  for (const [, path, read] of log.matchAll(/close "(.*)" bytes read (\d+) written/g)) {
    bytes.set(path!, (bytes.get(path!) ?? 0) + Number(read))
  }
  return bytes
}

/** The one in sshd itself hands what it logs to the client. */
const SFTP_SERVER = '/usr/lib/openssh/sftp-server'

function subsystem({ root, at, isCountingReads }: SshdOptions & { root: string; at(name: string): string }): string {
  return isCountingReads ? `${SFTP_SERVER} -e -l INFO -d ${root} 2>>${at(READS)}` : `internal-sftp -d ${root}`
}

function configuration(options: SshdOptions & { port: number; root: string; at(name: string): string }): string[] {
  return [
    `Port ${options.port}`,
    'ListenAddress 127.0.0.1',
    `HostKey ${options.at('host_key')}`,
    `AuthorizedKeysFile ${options.at('authorized_keys')}`,
    `PidFile ${options.at('pid')}`,
    'StrictModes no',
    'UsePAM no',
    'PasswordAuthentication no',
    'KbdInteractiveAuthentication no',
    'PermitRootLogin yes',
    `LogLevel ${options.logLevel ?? 'VERBOSE'}`,
    'UseDNS no',
    `MaxSessions ${options.maxSessions ?? 10}`,
    `MaxStartups ${options.maxStartups ?? '100'}`,
    `Subsystem sftp ${subsystem(options)}`,
    ...(options.extraConfig ?? [])
  ]
}

/** "SHA256:…" of a host key, as a client sees it. */
export function fingerprint(privateKey: string): string {
  const key = ssh2.utils.parseKey(privateKey)
  if (key instanceof Error) throw key
  return `SHA256:${createHash('sha256').update(key.getPublicSSH()).digest('base64').replace(/=+$/, '')}`
}
