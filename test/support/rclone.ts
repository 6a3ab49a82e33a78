/** `rclone serve sftp` over a folder: Go's SFTP library behind rclone's own layer of a file system. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { newSshKey } from '../../demo/ssh-key.ts'
import { goBinary } from './go-programs.ts'
import { fingerprint } from './openssh.ts'
import { freePort } from './ports.ts'
import { startProcess, temporaryFolder } from './process.ts'

export interface Rclone {
  host: '127.0.0.1'
  port: number
  username: string
  password: string
  /** "SHA256:…" */
  hostKey: string
  /** Its clients see this folder as "/". */
  root: string
  pid: number
  stop(): Promise<void>
}

export async function startRclone(): Promise<Rclone> {
  const rclone = await goBinary('rclone')
  const folder = await temporaryFolder('rclone')
  const root = await temporaryFolder('sftp-root')
  const remove = async () => {
    await folder.remove()
    await root.remove()
  }
  try {
    const at = (name: string) => join(folder.path, name)
    const key = newSshKey().private
    await writeFile(at('host_key'), key, { mode: 0o600 })
    await writeFile(at('rclone.conf'), '')
    const port = await freePort()
    const [username, password] = ['ada', 'a fine secret']
    const args = [
      ...['serve', 'sftp', root.path, '--addr', `127.0.0.1:${port}`, '--key', at('host_key')],
      ...['--user', username, '--pass', password],
      ...['--config', at('rclone.conf'), '--cache-dir', at('cache')],
      // Files come and go beside it here; its memory of a folder would hide that for minutes.
      ...['--dir-cache-time', '0']
    ]
    const running = await startProcess(rclone, args, { ready: /listening on/ })
    return {
      host: '127.0.0.1',
      port,
      username,
      password,
      hostKey: fingerprint(key),
      root: root.path,
      pid: running.pid,
      stop: async () => {
        await running.stop()
        await remove()
      }
    }
  } catch (error) {
    await remove()
    throw error
  }
}
