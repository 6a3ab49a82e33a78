/**
 * `npm run demo`: everything in this process on embedded backends. A demo SFTP server with real files is registered
 * over REST like any other, and new files keep coming until Ctrl-C. With `--once`: no new files; exits 0 when every
 * file is `notified` and its stored bytes equal the source's, 1 otherwise, and prints a table.
 */
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { styleText } from 'node:util'
import { bytes, visible } from '../cli/format.ts'
import { loadConfig } from '../config.ts'
import type { FileRecord } from '../domain/file-record.ts'
import { openStore } from '../drivers/store/open.ts'
import { apiPort, createNode, stopNode } from '../node.ts'
import { pathsBelow, prove } from './proof.ts'
import { dropMore, growFile, writeSamples } from './samples.ts'
import { startSftpServer } from './sftp-server.ts'

const ONCE_WITHIN_MS = 60_000
const GROWING = 'outgoing/still-growing.log'

const once = process.argv.includes('--once')
const folder = await mkdtemp(join(tmpdir(), 'longshore-demo-'))
const root = join(folder, 'partner')
await mkdir(root)

const samples = await writeSamples(root)
const sftp = await startSftpServer({ root, users: { demo: 'demo' } })
const config = loadConfig({
  DATA_DIR: join(folder, 'data'),
  API_HOST: '127.0.0.1',
  API_PORT: process.env.API_PORT ?? (once ? '0' : '3000'),
  ALLOW_NETWORKS: '127.0.0.0/8',
  LOG_LEVEL: process.env.LOG_LEVEL ?? 'error'
})
const broker = await createNode(config)
const ended = new AbortController()
let stopDropping = () => {}

async function leave(code: number): Promise<never> {
  ended.abort()
  stopDropping()
  await stopNode(broker)
  await sftp.stop()
  await rm(folder, { recursive: true, force: true })
  process.exit(code)
}
process.on('SIGINT', () => leave(once ? 1 : 0))
process.on('SIGTERM', () => leave(once ? 1 : 0))

await broker.start()
const api = `http://127.0.0.1:${apiPort(broker)}/api/v1`
const growing = growFile(root, GROWING, 6, 700, ended.signal)

console.log(`${styleText('bold', 'Longshore demo')}: SFTP server -> object store -> announcement, all in this process`)
console.log(`  SFTP    sftp://demo:demo@127.0.0.1:${sftp.port}  (${samples} files, one more still growing)`)
console.log(`  REST    ${api}/files`)
console.log(`  data    ${config.dataDir}\n`)

const response = await fetch(`${api}/servers`, {
  method: 'POST',
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify({
    name: 'demo',
    host: '127.0.0.1',
    port: sftp.port,
    username: 'demo',
    password: 'demo',
    hostKey: sftp.hostKey,
    interval: 2,
    settle: { checks: 2, seconds: 2 }
  })
})
if (response.status !== 201) {
  console.error(`the demo server could not be registered: ${await response.text()}`)
  await leave(1)
}

const marks: Record<string, string> = {
  settling: 'waiting until it stops changing',
  pending: 'found',
  downloading: 'copying',
  uploaded: 'stored and verified',
  notified: 'announced',
  failed: 'FAILED',
  skipped: 'skipped',
  vanished: 'gone'
}
const shown = new Map<string, string>()

async function records(): Promise<FileRecord[]> {
  const { items } = await broker.call<{ items: FileRecord[] }, object>('files.list', { limit: 1000 })
  return Promise.all(items.map((file) => broker.call<FileRecord, object>('files.get', { id: file._id })))
}

/** One line for each change of state. */
function report(file: FileRecord): void {
  const key = `${file._id}`
  if (shown.get(key) === file.status) return
  shown.set(key, file.status)
  const mark = marks[file.status] ?? file.status
  const colour = file.status === 'notified' ? 'green' : file.status === 'failed' ? 'red' : 'dim'
  const why = file.error ? `  ${visible(file.error.message)}` : ''
  console.log(`  ${styleText(colour, mark.padEnd(32))} ${visible(file.path)}  ${bytes(file.size)}${why}`)
}

/** Resolves when `isDone`; looks at the records a few times a second, as a dashboard would. */
async function follow(isDone: (files: FileRecord[]) => Promise<boolean> | boolean, withinMs: number): Promise<boolean> {
  const deadline = Date.now() + withinMs
  while (Date.now() < deadline) {
    const files = await records()
    for (const file of files.toReversed()) report(file)
    if (await isDone(files)) return true
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  return false
}

if (once) {
  const startedAt = Date.now()
  await follow(async (files) => {
    const paths = await pathsBelow(root)
    return (
      shown.size > 0 && paths.every((path) => files.some((file) => file.path === path && file.status === 'notified'))
    )
  }, ONCE_WITHIN_MS)
  await growing
  const paths = await pathsBelow(root)
  const byPath = new Map((await records()).map((file) => [file.path, file]))
  const store = openStore(config)
  const proofs = []
  for (const path of paths) proofs.push(await prove(root, path, byPath.get(path), store))
  await store.close()
  const width = Math.max(...proofs.map(({ path }) => visible(path).length))
  console.log(
    `\n  ${'file'.padEnd(width)}  ${'size'.padStart(10)}  ${'state'.padEnd(12)} ${'seconds'.padStart(7)}  SHA-256 of source and object`
  )
  for (const { path, size, status, sha256, equal, seconds } of proofs) {
    const verdict = equal ? styleText('green', `${sha256.slice(0, 16)}… equal`) : styleText('red', 'NOT EQUAL')
    console.log(
      `  ${visible(path).padEnd(width)}  ${bytes(size).padStart(10)}  ${status.padEnd(12)} ${seconds.toFixed(1).padStart(7)}  ${verdict}`
    )
  }
  const announced = (await readFile(join(config.dataDir, 'notifications.ndjson'), 'utf8').catch(() => ''))
    .split('\n')
    .filter(Boolean)
  const good = proofs.filter(({ status, equal }) => status === 'notified' && equal).length
  console.log(
    `\n  ${good} of ${proofs.length} files notified with equal bytes, ${announced.length} announcements, ${((Date.now() - startedAt) / 1000).toFixed(1)} s`
  )
  await leave(good === proofs.length && announced.length === proofs.length ? 0 : 1)
}

stopDropping = dropMore(root, 5_000)
console.log('  a new file comes every 5 s; Ctrl-C ends it\n')
await follow(() => false, Number.POSITIVE_INFINITY)
