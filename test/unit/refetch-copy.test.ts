import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { crc32Hex } from '../../domain/crc32.ts'
import { IngestError } from '../../domain/errors.ts'
import type { Outcome } from '../../domain/file.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import { copyFile } from '../../drivers/copy.ts'
import type { Attributes, Sftp } from '../../drivers/sftp/sftp.ts'
import { filesystemStore } from '../../drivers/store/filesystem.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'

const key = 'partner/a'
const recorded = Buffer.from('what was stored')
const sum = (bytes: Buffer) => crc32Hex(crc32(bytes))

let folder: string
let store: ObjectStore
/** What the server holds; null: nothing. */
let source: Buffer | null

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'longshore-refetch-'))
  store = filesystemStore({ folder, bucket: 'files' })
  await store.ensureReady()
  source = recorded
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const sftp = {
  latencyMs: 0,
  maxChannels: 8,
  readBytes: 1024,
  async stat(): Promise<Attributes> {
    if (!source) throw new IngestError('SFTP_NO_SUCH_PATH', 'gone')
    return { kind: 'file', sizeBytes: source.length, mtimeSeconds: 1, mode: 0, uid: 0, gid: 0 }
  },
  async open() {
    await sftp.stat('/a')
    return { stat: () => sftp.stat('/a'), readSmall: async () => source, close: async () => undefined }
  }
} as unknown as Sftp

/** The worker of this epoch copies version 1 again; what was there before is of epoch 1. */
function refetched(epoch = 2): Promise<Outcome> {
  const object = { checksum: { algorithm: 'crc32', value: sum(recorded) } }
  const wanted = { refetch: { status: 'notified', announcement: {}, epoch: 1 }, reservedKey: key, object, upload: null }
  const identity = { _id: 'file-1', serverId: 's1', path: '/a', version: 1, size: recorded.length, mtime: 1000, epoch }
  return copyFile(sftp, store, {
    file: { ...identity, ...wanted } as unknown as FileRecord,
    checksum: 'crc32',
    signal: new AbortController().signal,
    keepUpload: async () => undefined,
    stillOurs: async () => undefined,
    onBytes: () => undefined,
    isLeaving: () => false,
    onKept: () => undefined
  })
}

const put = (bytes: Buffer, metadata: Record<string, string>) =>
  store.put(key, bytes, { metadata, crc32: sum(bytes), condition: null })
const ours = (epoch: number) => ({
  'longshore-file': 'file-1',
  'longshore-version': '1',
  'longshore-size': String(recorded.length),
  'longshore-mtime': '1000',
  'longshore-epoch': String(epoch)
})
async function stored(): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of await store.read(key)) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}
const epochStored = async () => (await store.head(key))?.metadata['longshore-epoch']

describe('the copy of a refetch', () => {
  test('is made anew though the old object is whole', async () => {
    await put(recorded, ours(1))
    expect(await refetched()).toMatchObject({ kind: 'stored' })
    expect(await epochStored()).toBe('2')
  })

  test('is adopted when a worker before had made it and only its answer was lost', async () => {
    await put(recorded, ours(2))
    expect(await refetched(3)).toMatchObject({ kind: 'stored' })
    expect(await epochStored()).toBe('2')
  })

  test('replaces what somebody wrote under the key, and what is missing', async () => {
    await put(Buffer.from('something else'), {})
    expect(await refetched()).toMatchObject({ kind: 'stored', object: { key } })
    expect(await stored()).toBe(recorded.toString())
    await store.remove(key)
    expect(await refetched()).toMatchObject({ kind: 'stored', object: { key } })
    expect(await stored()).toBe(recorded.toString())
  })

  test('writes nothing when the source holds other bytes, of whatever size', async () => {
    await put(recorded, ours(1))
    for (const other of ['what was STORED', 'longer than what was stored']) {
      source = Buffer.from(other)
      expect(await refetched()).toMatchObject({ kind: 'changed' })
      expect([await stored(), await epochStored()]).toEqual([recorded.toString(), '1'])
    }
  })

  test('leaves the object where it is when the source is gone', async () => {
    await put(recorded, ours(1))
    source = null
    await expect(refetched()).rejects.toMatchObject({ type: 'SFTP_NO_SUCH_PATH' })
    expect(await stored()).toBe(recorded.toString())
  })
})
