/** What a consumer is told of the bytes is what common tools make of them, under either policy, on OpenSSH and MinIO. */
import { execFile } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals'
import { type Embedded, startEmbedded } from '../support/embedded.ts'
import { temporaryFolder } from '../support/process.ts'
import type { Json } from '../support/rest.ts'
import { writeSource } from '../support/source-files.ts'

const MiB = 1024 * 1024
const files: [string, number][] = [
  ['an empty file', 0],
  ['a file of one PUT', 100_003],
  ['a file of several parts', 40 * MiB + 7]
]

let longshore: Embedded
let folder: Awaited<ReturnType<typeof temporaryFolder>>

beforeAll(async () => {
  folder = await temporaryFolder('checksums')
  longshore = await startEmbedded({ store: 'minio' })
})
afterEach(() => {
  Object.assign(longshore.s3!, { fault: null, hidesChecksums: false })
})
afterAll(async () => {
  await longshore?.stop()
  await folder?.remove()
})

/** The command that docs/message.md shows for this tool, on this file. */
async function byDocumentedCommand(tool: string, path: string): Promise<string> {
  const page = await readFile(join(import.meta.dirname, '../../docs/message.md'), 'utf8')
  const [, command] = new RegExp(`^\\$ (${tool} .*)$`, 'm').exec(page)!
  const { stdout } = await promisify(execFile)('sh', ['-c', command!.replace('delivery-0057.csv', '"$0"'), path])
  return stdout.trim().split(/\s/)[0]!
}

async function announced({ id }: Json): Promise<Json> {
  const journal = await readFile(join(longshore.longshore.dataDir, 'notifications.ndjson'), 'utf8')
  const events = journal.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line)]))
  return events.find(({ data }: Json) => data.fileId === id)
}

describe.each([
  { algorithm: 'crc32', tool: 'gzip', readsBack: false },
  { algorithm: 'sha256', tool: 'sha256sum', readsBack: true }
])('a server whose policy is $algorithm', ({ algorithm, tool, readsBack }) => {
  beforeAll(async () => {
    const change = await longshore.longshore.api.request('PATCH', '/servers/partner', { checksum: algorithm })
    expect(change.status).toBe(200)
  })

  test.each(files)(
    `has %s announced with what ${tool} makes of the source and of the object`,
    async (title, sizeBytes) => {
      const path = `${algorithm}/${title}`
      const readBefore = longshore.s3!.seen.byOperation.get ?? 0
      await writeSource(longshore.root, path, sizeBytes)
      const file = await longshore.becomes(path, 'notified')
      const readBack = (longshore.s3!.seen.byOperation.get ?? 0) - readBefore
      expect(readBack).toBe(readsBack && sizeBytes > 5 * MiB ? 1 : 0)

      const copy = join(folder.path, 'object')
      await pipeline(await longshore.store!.read(file.object.key), createWriteStream(copy))
      const checksum = { algorithm, value: await byDocumentedCommand(tool, copy) }
      expect(await byDocumentedCommand(tool, join(longshore.root, path))).toBe(checksum.value)
      expect(file.object.checksum).toEqual(checksum)
      expect((await announced(file)).data.checksum).toEqual(checksum)
    }
  )
})

describe('a store that says no checksum', () => {
  beforeAll(() => longshore.longshore.api.request('PATCH', '/servers/partner', { checksum: 'crc32' }))

  test.each(files)('is not believed: %s is read back', async (title, sizeBytes) => {
    const path = `unsaid/${title}`
    longshore.s3!.hidesChecksums = true
    const readBefore = longshore.s3!.seen.byOperation.get ?? 0
    await writeSource(longshore.root, path, sizeBytes)
    const file = await longshore.becomes(path, 'notified')
    expect((longshore.s3!.seen.byOperation.get ?? 0) - readBefore).toBe(1)
    const value = await byDocumentedCommand('gzip', join(longshore.root, path))
    expect(file.object.checksum).toEqual({ algorithm: 'crc32', value })
  })

  test.each(files.slice(1))('and gives back other bytes of %s is sent it again', async (title, sizeBytes) => {
    const path = `other/${title}`
    let isFlipped = false
    let removals = 0
    longshore.s3!.hidesChecksums = true
    longshore.s3!.fault = ({ operation }) => {
      if (operation === 'remove') removals++
      if (operation !== 'get' || isFlipped) return null
      isFlipped = true
      return { kind: 'flipAnswer' }
    }
    await writeSource(longshore.root, path, sizeBytes)
    const file = await longshore.becomes(path, 'notified')
    const statuses = file.history.map(({ status }: Json) => status)
    expect(statuses).toEqual(['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified'])
    expect(file.history[2].reason).toMatch(/gives back/)
    expect(removals).toBe(1)
    expect(await longshore.problems()).toEqual([])
  })
})
