/** The demo SFTP server by itself, for docker compose: `demo` / `demo`, on 0.0.0.0:2222 or SFTP_HOST and SFTP_PORT given as arguments. */
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { dropMore, writeSamples } from './samples.ts'
import { startSftpServer } from './sftp-server.ts'

const [host = '0.0.0.0', port = '2222'] = process.argv.slice(2)
const root = await mkdtemp(join(tmpdir(), 'longshore-demo-'))
await writeSamples(root)
const server = await startSftpServer({ root, users: { demo: 'demo' }, host, port: Number(port) })
const stopDropping = dropMore(root, 5_000)
console.log(`SFTP at ${host}:${server.port}, user demo, password demo, host key ${server.hostKey}`)

async function stop(): Promise<void> {
  stopDropping()
  await server.stop()
  process.exit(0)
}
process.on('SIGTERM', stop)
process.on('SIGINT', stop)
