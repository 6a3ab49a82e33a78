/** Limits on a real OpenSSH: what comes off the connection a second, and what a whole Longshore makes of them. */
import { randomBytes } from 'node:crypto'
import { chmod, mkdir, realpath, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals'
import type { FileRecord } from '../../domain/file.ts'
import { copyFile } from '../../drivers/copy.ts'
import { connectSftp } from '../../drivers/sftp/connection.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import { filesystemStore } from '../../drivers/store/filesystem.ts'
import { Bucket } from '../../workers/bandwidth.ts'
import { type Longshore, startLongshore } from '../support/longshore.ts'
import { type Sshd, startSshd } from '../support/openssh.ts'
import { temporaryFolder } from '../support/process.ts'
import { waitFor } from '../support/wait.ts'

jest.setTimeout(120_000)

const KIB = 1024
const MIB = 1024 * KIB

let sshd: Sshd
let root: string
beforeAll(async () => {
  sshd = await startSshd()
  root = await realpath(sshd.root)
})
afterAll(() => sshd?.stop())

async function newFile(name: string, sizeBytes: number): Promise<string> {
  const path = join(root, name)
  await writeFile(path, randomBytes(sizeBytes))
  return path
}

describe('a connection with a limit', () => {
  let sftp: Sftp | null = null
  let folder: { path: string; remove(): Promise<void> } | null = null
  afterEach(async () => {
    await sftp?.close()
    await folder?.remove()
  })
  const connect = async (pace: Bucket, timeoutMs = 30_000) => {
    const { host, port, username, privateKey } = sshd
    const options = { verifyHostKey: async () => {}, resolveAddress: async (name: string) => name }
    sftp = await connectSftp({ host, port, username, privateKey }, { ...options, pace, timeoutMs })
    return sftp
  }
  const recordOf = async (path: string): Promise<FileRecord> => {
    const { size, mtime } = await stat(path)
    const of = { _id: 'id', path, size, mtime: Math.floor(mtime.getTime() / 1000) * 1000, version: 1, epoch: 1 }
    return { ...of, reservedKey: 'copy', upload: null } as FileRecord
  }
  async function copy(
    connection: Sftp,
    file: FileRecord,
    more: { signal?: AbortSignal; onBytes?(bytes: number): void }
  ) {
    folder = await temporaryFolder('bandwidth')
    const store = filesystemStore({ folder: folder.path, bucket: 'bandwidth' })
    await store.ensureReady()
    const nothing = { keepUpload: async () => {}, stillOurs: async () => {}, onKept: () => {}, onBytes: () => {} }
    const stays = { isLeaving: () => false }
    const job = {
      file,
      checksum: 'crc32' as const,
      signal: new AbortController().signal,
      ...nothing,
      ...stays,
      ...more
    }
    const outcome = await copyFile(connection, store, job)
    return { outcome, object: await store.head('copy') }
  }

  test.each([
    ['ranges of a large file', 24 * MIB, 6 * MIB],
    ['a small file', 4 * MIB, 1 * MIB]
  ])('reads %s at its rate, evenly, and the object is whole', async (_, sizeBytes, bytesPerSecond) => {
    const path = await newFile('paced', sizeBytes)
    const connection = await connect(new Bucket(bytesPerSecond))
    const arrived: { at: number; bytes: number }[] = []
    const start = performance.now()
    const onBytes = (bytes: number) => arrived.push({ at: performance.now() - start, bytes })
    const seen = sizeBytes > 5 * MIB ? onBytes : () => {}
    const { outcome } = await copy(connection, await recordOf(path), { onBytes: seen })
    const seconds = (performance.now() - start) / 1000
    expect(outcome).toMatchObject({ kind: 'stored', object: { size: sizeBytes } })
    expect(sizeBytes / seconds).toBeLessThan(bytesPerSecond * 1.05)
    expect(sizeBytes / seconds).toBeGreaterThan(bytesPerSecond * 0.85)
    for (let from = 0; arrived.length > 0 && from < 3_000; from += 500) {
      const inSecond = arrived
        .filter(({ at }) => at >= from && at < from + 1000)
        .reduce((sum, one) => sum + one.bytes, 0)
      expect(inSecond).toBeLessThan(bytesPerSecond * 1.25)
    }
  })

  test('a read that waits for the limit for longer than a stall is none, and can be cancelled at once', async () => {
    const path = await newFile('slow', 6 * MIB)
    const connection = await connect(new Bucket(64 * KIB), 700)
    const cancel = new AbortController()
    const arrived: number[] = []
    const copying = copy(connection, await recordOf(path), { signal: cancel.signal, onBytes: () => arrived.push(1) })
    const failed = copying.catch((error: unknown) => error)
    // A block takes two seconds: three times as long as silence may last.
    await Promise.race([waitFor(() => arrived.length >= 3, { timeoutMs: 20_000, what: 'three blocks' }), failed])
    expect(arrived.length).toBeGreaterThanOrEqual(3)
    const start = performance.now()
    cancel.abort(new Error('enough'))
    expect(await failed).toBeInstanceOf(Error)
    expect(performance.now() - start).toBeLessThan(1_000)
  })

  test('the object says whose the source was', async () => {
    const path = await newFile('owned', 10)
    await chmod(path, 0o640)
    const { uid, gid, mtimeMs } = await stat(path)
    const { object } = await copy(await connect(new Bucket(null)), await recordOf(path), {})
    expect(object?.metadata).toMatchObject({
      'longshore-size': '10',
      'longshore-mtime': String(Math.floor(mtimeMs / 1000) * 1000),
      'longshore-uid': String(uid),
      'longshore-gid': String(gid),
      'longshore-mode': '0640'
    })
  })
})

describe('Longshore with limits', () => {
  let longshore: Longshore | null = null
  afterEach(() => longshore?.stop())

  test("a server's bandwidth holds over its files, shows in their progress, and follows a change; others are not slowed", async () => {
    longshore = await startLongshore({})
    const { api } = longshore
    for (const name of ['limited', 'free']) await mkdir(join(root, name))
    await newFile('limited/large', 28 * MIB)
    await newFile('free/large', 28 * MIB)
    const { host, port, username, privateKey } = sshd
    const common = { host, port, username, privateKey, settle: { checks: 1, seconds: 0 }, interval: 60 }
    const limited = { ...common, name: 'limited', roots: [join(root, 'limited')], bandwidth: 2 * MIB }
    const { id } = await api.post('/servers', limited)
    const progress: { bytes: number; bytesPerSecond: number }[] = []
    const file = await waitFor(() => api.files('&status=downloading').then((files) => files[0]), {
      timeoutMs: 20_000,
      what: 'the limited copy to begin'
    })
    await waitFor(
      async () => {
        const seen = (await api.get(`/files/${file.id}`)).progress
        if (seen && seen.bytes !== progress.at(-1)?.bytes) progress.push(seen)
        return progress.length >= 4
      },
      { timeoutMs: 15_000, what: 'progress to be told four times' }
    )
    for (const { bytesPerSecond } of progress.slice(1)) {
      expect(bytesPerSecond).toBeGreaterThan(1.4 * MIB)
      expect(bytesPerSecond).toBeLessThan(2.6 * MIB)
    }
    await api.post('/servers', { ...common, name: 'free', roots: [join(root, 'free')] })
    await waitFor(() => api.files('&status=notified').then((files) => files.some((one) => one.serverName === 'free')), {
      timeoutMs: 5_000,
      what: 'the free file'
    })
    expect((await api.get(`/files/${file.id}`)).status).toBe('downloading')
    await api.request('PATCH', `/servers/${id}`, { bandwidth: null })
    await waitFor(async () => (await api.get(`/files/${file.id}`)).status === 'notified', {
      timeoutMs: 8_000,
      what: 'the rest without a limit'
    })
  })
})
