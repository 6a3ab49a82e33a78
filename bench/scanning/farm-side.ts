/** SFTP servers of ssh2 in a process of their own, each with a small folder. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type ScriptedSftp, startScriptedSftp } from '../../test/support/scripted-sftp.ts'
import { answer } from './side.ts'

const servers: ScriptedSftp[] = []

answer({
  /** Answers the ports; all servers have the same user. */
  async start({ folder, servers: count, files }: { folder: string; servers: number; files: number }) {
    await mkdir(folder)
    for (let index = 0; index < files; index++) await writeFile(join(folder, `file-${index}`), 'x'.repeat(index + 1))
    for (let index = 0; index < count; index++) servers.push(await startScriptedSftp(folder))
    const [{ username, password }] = servers as [ScriptedSftp]
    return { ports: servers.map(({ port }) => port), username, password }
  },
  async stop() {
    await Promise.all(servers.map((server) => server.stop()))
  }
})
