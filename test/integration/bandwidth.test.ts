/** Limits on a real OpenSSH: what comes off the connection a second, and what a whole Longshore makes of them. */
import { randomBytes } from 'node:crypto'
import { chmod, mkdir, realpath, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals'
import type { FileRecord } from '../../domain/file-record.ts'
import { copyFile } from '../../drivers/copy.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import { filesystemStore } from '../../drivers/store/filesystem.ts'
import { Bucket } from '../../workers/bandwidth.ts'
import { claimedFile, copyJob } from '../support/copy-job.ts'
import { type Backends, type Longshore, startBackends, startLongshore } from '../support/longshore.ts'
import { connectTo, type Sshd, startSshd } from '../support/openssh.ts'
import { temporaryFolder } from '../support/process.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'
import type { Json } from '../support/rest.ts'
import { waitFor } from '../support/wait.ts'

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
  const connect = async (pace: Bucket, timeoutMs = 30_000, port = sshd.port) => {
    sftp = await connectTo({ ...sshd, port }, { timeoutMs })
    sftp.limitTo(pace)
    return sftp
  }
  async function copy(
    connection: Sftp,
    file: FileRecord,
    more: { signal?: AbortSignal; onBytes?(bytes: number): void }
  ) {
    folder = await temporaryFolder('bandwidth')
    const store = filesystemStore({ folder: folder.path, bucket: 'bandwidth' })
    await store.ensureReady()
    const outcome = await copyFile(connection, store, copyJob(file, more))
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
    const { outcome } = await copy(connection, await claimedFile(path), { onBytes: seen })
    const seconds = (performance.now() - start) / 1000
    expect(outcome).toMatchObject({ kind: 'stored', object: { size: sizeBytes } })
    expect(sizeBytes / seconds).toBeLessThan(bytesPerSecond * 1.05)
    // Less than its rate only as far as the machine is busy with other things.
    expect(sizeBytes / seconds).toBeGreaterThan(bytesPerSecond * 0.6)
    for (let from = 0; arrived.length > 0 && from < 3_000; from += 500) {
      const inSecond = arrived
        .filter(({ at }) => at >= from && at < from + 1000)
        .reduce((sum, one) => sum + one.bytes, 0)
      expect(inSecond).toBeLessThan(bytesPerSecond * 1.4)
    }
  })

  test('a read that waits for the limit for longer than a stall is none, and can be cancelled at once', async () => {
    const path = await newFile('slow', 6 * MIB)
    const connection = await connect(new Bucket(64 * KIB), 700)
    const cancel = new AbortController()
    const arrived: number[] = []
    const copying = copy(connection, await claimedFile(path), { signal: cancel.signal, onBytes: () => arrived.push(1) })
    const failed = copying.catch((error: unknown) => error)
    // A block takes two seconds: three times as long as silence may last.
    await Promise.race([waitFor(() => arrived.length >= 3, { what: 'three blocks' }), failed])
    expect(arrived.length).toBeGreaterThanOrEqual(3)
    const start = performance.now()
    cancel.abort(new Error('enough'))
    expect(await failed).toBeInstanceOf(Error)
    expect(performance.now() - start).toBeLessThan(1_000)
  })

  test('a copy may take any time while bytes come, and ends when none have come for as long as silence may last', async () => {
    const silenceMs = 2_000
    const path = await newFile('slow link', 6 * MIB)
    const proxy = await startProxy({ target: { host: sshd.host, port: sshd.port } })
    try {
      const connection = await connect(new Bucket(null), silenceMs, proxy.port)
      proxy.throttle(384 * KIB)
      const start = performance.now()
      expect((await copy(connection, await claimedFile(path), {})).outcome).toMatchObject({ kind: 'stored' })
      expect(performance.now() - start).toBeGreaterThan(6 * silenceMs)

      await folder?.remove()
      const arrived: number[] = []
      const again = copy(connection, await claimedFile(path), { onBytes: () => arrived.push(1) })
      const failed = again.catch((error: unknown) => error)
      await waitFor(() => arrived.length > 0, { what: 'the first bytes' })
      proxy.blackhole()
      expect(await failed).toMatchObject({ type: 'STALLED' })
    } finally {
      // Resets the connection, which then closes without an error nevertheless.
      await proxy.close()
    }
    await sftp?.close()
  })

  test('the object says whose the source was', async () => {
    const path = await newFile('owned', 10)
    await chmod(path, 0o640)
    const { uid, gid, mtimeMs } = await stat(path)
    const { object } = await copy(await connect(new Bucket(null)), await claimedFile(path), {})
    expect(object?.metadata).toMatchObject({
      'longshore-size': '10',
      'longshore-mtime': String(Math.floor(mtimeMs / 1000) * 1000),
      'longshore-uid': String(uid),
      'longshore-gid': String(gid),
      'longshore-mode': '0640'
    })
  })
})

/** Bytes a second that came off the SFTP server, in steps of a second, from now until `isOver`. */
async function ratesUntil(proxies: FaultyProxy[], isOver: () => Promise<boolean>): Promise<number[]> {
  const sum = () => proxies.reduce((bytes, { received }) => bytes + received, 0)
  const rates: number[] = []
  let last = { at: performance.now(), bytes: sum() }
  await waitFor(
    async () => {
      const next = { at: performance.now(), bytes: sum() }
      if (next.at - last.at >= 1_000) {
        rates.push(((next.bytes - last.bytes) * 1_000) / (next.at - last.at))
        last = next
      }
      return isOver()
    },
    { what: 'the copies to end' }
  )
  return rates
}

/** Each alone would have twice the limit. A second may have what this process was too late to see in the one before. */
function expectLimit(rates: number[], bytesPerSecond: number): void {
  for (const rate of rates) expect(rate).toBeLessThan(bytesPerSecond * 1.6)
  const mean = rates.reduce((sum, rate) => sum + rate, 0) / rates.length
  expect(mean).toBeLessThan(bytesPerSecond * 1.15)
}

describe('Longshore with limits', () => {
  let longshore: Longshore | null = null
  let backends: Backends | null = null
  let proxies: FaultyProxy[] = []
  afterEach(async () => {
    await longshore?.stop()
    await backends?.stop()
    for (const one of proxies) await one.close()
    longshore = backends = null
    proxies = []
  })
  const atOnce = { settle: { checks: 1, seconds: 0 }, interval: 86_400 }
  const isNotified = ({ status }: Json) => status === 'notified'

  test("a process's BANDWIDTH holds for the sum of all servers, and each has its part of it", async () => {
    longshore = await startLongshore({ env: { BANDWIDTH: String(4 * MIB) } })
    const { api } = longshore
    const { host, port, username, privateKey } = sshd
    proxies = [await startProxy({ target: { host, port } }), await startProxy({ target: { host, port } })]
    for (const [index, proxy] of proxies.entries()) {
      const name = `half-${index}`
      await mkdir(join(root, name))
      await newFile(`${name}/large`, 16 * MIB)
      const address = { host, port: proxy.port, username, privateKey }
      await api.post('/servers', { ...atOnce, ...address, name, roots: [join(root, name)] })
    }
    await waitFor(async () => (await api.files('&status=downloading')).length === 2, {
      what: 'both copies to be under way'
    })
    const before = proxies.map(({ received }) => received)
    let whenOneEnds: number[] | null = null
    const rates = await ratesUntil(proxies, async () => {
      const ended = (await api.files()).filter(isNotified).length
      if (ended > 0) whenOneEnds ??= proxies.map(({ received }, index) => received - before[index]!)
      return ended === 2
    })
    expect(rates.length).toBeGreaterThanOrEqual(4)
    expectLimit(rates, 4 * MIB)
    // The last second is half a one, and the first may be.
    expect(Math.max(...rates)).toBeGreaterThan(4 * MIB * 0.7)
    for (const bytes of whenOneEnds!) expect(bytes).toBeGreaterThan(5 * MIB)
  })

  test("a server's bandwidth holds for the sum of two processes that copy from it", async () => {
    backends = await startBackends({ proxied: true })
    longshore = await startLongshore({
      backends,
      counts: { transfer: 2 },
      // A worker takes no more files than fit, so that both have some.
      env: { IN_FLIGHT_BYTES: String(16 * MIB) }
    })
    const { api } = longshore
    const files = 15
    const content = randomBytes(4 * MIB)
    await mkdir(join(backends.root, 'shared'))
    for (let index = 0; index < files; index++) {
      await writeFile(join(backends.root, 'shared', String(index)), content)
    }
    const shared = { ...atOnce, bandwidth: 4 * MIB, maxConnections: 3, roots: [join(backends.root, 'shared')] }
    await api.post('/servers', backends.server(shared))
    const workers = async () => {
      const copying = await api.files('&status=downloading')
      const records: Json[] = await Promise.all(copying.map(({ id }) => api.get(`/files/${id}`)))
      return new Set(records.map(({ history }) => history.at(-1).worker))
    }
    const { output } = longshore
    await waitFor(async () => (await workers()).size === 2, {
      what: 'both workers to copy',
      explain: output
    })
    // The one that came first hears at its next renewal that it has half of the limit from now on.
    const from = performance.now()
    const rates = await ratesUntil(
      [backends.proxy!],
      async () => (await api.files()).filter(isNotified).length > files - 3
    )
    expect((performance.now() - from) / 1000).toBeGreaterThan(7)
    const steady = rates.slice(6)
    expect(steady.length).toBeGreaterThanOrEqual(2)
    expectLimit(steady, 4 * MIB)
    expect(Math.max(...steady)).toBeGreaterThan(4 * MIB * 0.7)
  })

  test("a server's bandwidth holds over its files, shows in their progress, and follows a change; others are not slowed", async () => {
    longshore = await startLongshore({})
    const { api } = longshore
    for (const name of ['limited', 'free']) await mkdir(join(root, name))
    // A minute's work under the limit, of which the test sees a few seconds.
    await newFile('limited/large', 128 * MIB)
    await newFile('free/large', 28 * MIB)
    const { host, port, username, privateKey } = sshd
    const common = { host, port, username, privateKey, settle: { checks: 1, seconds: 0 }, interval: 60 }
    const limited = { ...common, name: 'limited', roots: [join(root, 'limited')], bandwidth: 2 * MIB }
    const { id } = await api.post('/servers', limited)
    const progress: { bytes: number; bytesPerSecond: number }[] = []
    const file = await waitFor(() => api.files('&status=downloading').then((files) => files[0]), {
      what: 'the limited copy to begin'
    })
    await waitFor(
      async () => {
        const seen = (await api.get(`/files/${file.id}`)).progress
        if (seen && seen.bytes !== progress.at(-1)?.bytes) progress.push(seen)
        return progress.length >= 4
      },
      { what: 'progress to be told four times' }
    )
    for (const { bytesPerSecond } of progress.slice(1)) {
      expect(bytesPerSecond).toBeLessThan(2.6 * MIB)
    }
    expect(Math.max(...progress.map(({ bytesPerSecond }) => bytesPerSecond))).toBeGreaterThan(1.4 * MIB)
    await api.post('/servers', { ...common, name: 'free', roots: [join(root, 'free')] })
    await waitFor(() => api.files('&status=notified').then((files) => files.some((one) => one.serverName === 'free')), {
      what: 'the free file'
    })
    expect((await api.get(`/files/${file.id}`)).status).toBe('downloading')
    await api.request('PATCH', `/servers/${id}`, { bandwidth: null })
    await waitFor(async () => (await api.get(`/files/${file.id}`)).status === 'notified', {
      // Under the limit it would take longer.
      timeoutMs: 40_000,
      what: 'the rest without a limit'
    })
  })
})
