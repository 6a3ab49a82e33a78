/**
 * Reads a file over three channels side by side, while the folder beside it is listed, and prints `{sha256, entries,
 * isNative}`. A process of its own, because Node decides at start whether ssh2's native binding may be loaded.
 *
 *   node [--no-addons] test/support/read-remote.ts '{"target": {…}, "folder": "/…", "name": "file", "sizeBytes": 1}'
 */
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import { connectSftp } from '../../drivers/sftp/connection.ts'

const { target, folder, name, sizeBytes } = JSON.parse(process.argv[2]!)
const { bindingAvailable } = createRequire(import.meta.url)('ssh2/lib/protocol/crypto.js')
const RANGES = 3

const sftp = await connectSftp(target, { verifyHostKey: async () => {}, resolveAddress: async (host) => host })
const rangeBytes = Math.ceil(sizeBytes / RANGES)
const ranges = await Promise.all([
  ...Array.from({ length: RANGES }, (_, channel) => readRange(channel, channel * rangeBytes)),
  countEntries()
])
await sftp.close()
const entries = ranges.pop()
const hash = createHash('sha256')
for (const range of ranges as Buffer[]) hash.update(range)
console.log(JSON.stringify({ sha256: hash.digest('hex'), entries, isNative: bindingAvailable }))

async function readRange(channel: number, start: number): Promise<Buffer> {
  const file = await sftp.open(`${folder}/${name}`, { channel })
  const range = Buffer.alloc(Math.min(rangeBytes, sizeBytes - start))
  let at = 0
  for await (const block of file.blocks(start, range.length)) {
    at += block.bytes.copy(range, at)
    block.release()
  }
  await file.close()
  return range
}

async function countEntries(): Promise<number> {
  let count = 0
  for await (const page of sftp.list(folder)) count += page.length
  return count
}
