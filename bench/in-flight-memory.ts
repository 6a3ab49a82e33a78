/**
 * What the blocks of large files on their way take of a process's memory, beside what is counted for them (`heldBytesOf`).
 *
 *   node bench/in-flight-memory.ts            no round trip, 50 ms and 100 ms, one file and four
 *
 * Half a GiB of zeros from an OpenSSH over one connection into a folder. The figure is the most that all buffers took,
 * after garbage collections in between; the 16 MiB that are kept for reuse are among it.
 */
import { once } from 'node:events'
import { realpath, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Worker } from 'node:worker_threads'
import { copyFile, heldBytesOf } from '../drivers/copy.ts'
import { filesystemStore } from '../drivers/store/filesystem.ts'
import { claimedFile, copyJob } from '../test/support/copy-job.ts'
import { connectTo, type Sshd, startSshd } from '../test/support/openssh.ts'
import { temporaryFolder } from '../test/support/process.ts'

const MiB = 1024 ** 2
const TOTAL_BYTES = 512 * MiB
const LOOK_MS = 50

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

function bufferBytes(): number {
  collectGarbage()
  return process.memoryUsage().arrayBuffers
}

/** The port of a delay before the server: in a thread, so that what it holds is not counted here. */
async function delayed({ host, port }: Sshd, delayMs: number): Promise<{ port: number; stop(): Promise<unknown> }> {
  const proxy = new URL('../test/support/proxy.ts', import.meta.url).href
  const options = JSON.stringify({ target: { host, port }, delayMs })
  const code = `
    const { parentPort } = require('node:worker_threads')
    import('${proxy}').then(async ({ startProxy }) => parentPort.postMessage((await startProxy(${options})).port))
  `
  const worker = new Worker(code, { eval: true })
  const [found] = await once(worker, 'message')
  return { port: found, stop: () => worker.terminate() }
}

async function measure(sshd: Sshd, delayMs: number, count: number): Promise<void> {
  const proxy = await delayed(sshd, delayMs)
  const folder = await temporaryFolder('in-flight')
  const store = filesystemStore({ folder: folder.path, bucket: 'in-flight' })
  await store.ensureReady()
  const root = await realpath(sshd.root)
  const paths = Array.from({ length: count }, (_, index) => join(root, `${delayMs}-${count}-${index}`))
  for (const path of paths) {
    await writeFile(path, '')
    await truncate(path, TOTAL_BYTES / count)
  }
  const before = bufferBytes()
  const sftp = await connectTo({ ...sshd, port: proxy.port })
  let most = 0
  const looking = setInterval(() => {
    most = Math.max(most, bufferBytes() - before)
  }, LOOK_MS)
  await Promise.all(paths.map(async (path) => copyFile(sftp, store, copyJob(await claimedFile(path, path)))))
  clearInterval(looking)
  const counted = count * heldBytesOf(TOTAL_BYTES / count, sftp)
  console.log(`${delayMs} ms, files: ${count}: ${Math.round(most / MiB)} MiB, counted ${Math.round(counted / MiB)} MiB`)
  await sftp.close()
  await proxy.stop()
  await folder.remove()
}

const sshd = await startSshd()
try {
  for (const delayMs of [0, 50, 100]) for (const count of [1, 4]) await measure(sshd, delayMs, count)
} finally {
  await sshd.stop()
}
