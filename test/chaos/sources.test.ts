import { createHash } from 'node:crypto'
import { appendFile, mkdir, open, readFile, rename, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { LEASE_MS, SKEW_MS } from '../../domain/file-record.ts'
import { type Embedded, startEmbedded } from '../support/embedded.ts'
import { waitFor } from '../support/longshore.ts'
import type { Json } from '../support/rest.ts'
import { writeSource } from '../support/source-files.ts'

const KiB = 1024
const MiB = 1024 * KiB
const MANY = 2_000
/** What a file is called since its rename. */
const RENAMED = 'another name'
/** Three parts. */
const LARGE_BYTES = 48 * MiB
/** Parts that are on their way when the line falls silent. */
const IN_FLIGHT_BYTES = 3 * 16 * MiB
/** More than 5 TiB, the largest object of S3. */
const TOO_LARGE_BYTES = 6 * 1024 ** 4

let longshore: Embedded

beforeAll(async () => {
  longshore = await startEmbedded({ store: 'minio' })
})
afterAll(() => longshore?.stop())

const at = (path: string) => join(longshore.root, path)
const statusesOf = ({ history }: Json) => history.map(({ status }: Json) => status)
const whole = async () => expect(await longshore.problems()).toEqual([])

/** Of a file on its own: it is in the middle of its read, and comes slowly. */
async function underWay(path: string): Promise<void> {
  const { received } = longshore.proxy
  longshore.proxy.throttle(12 * MiB)
  await writeSource(longshore.root, path, LARGE_BYTES)
  await waitFor(() => longshore.proxy.received > received + LARGE_BYTES / 3, { what: 'the copy', everyMs: 5 })
}

/** With another time, two seconds later: SFTP has whole ones. */
async function rewrite(path: string): Promise<void> {
  const handle = await open(path, 'r+')
  await handle.write(Buffer.alloc(MiB, 'new'), 0, MiB, LARGE_BYTES - 2 * MiB)
  await handle.close()
  const { atimeMs, mtimeMs } = await stat(path)
  await utimes(path, atimeMs / 1000, mtimeMs / 1000 + 2)
}

/** No copy comes further than its first word to the store, so that a file waits between its claim and its read. */
async function untilTried(path: string): Promise<void> {
  longshore.s3!.fault = ({ operation }) => (operation === 'create' ? { kind: 'reset' } : null)
  await waitFor(async () => (await longshore.file(path))?.error?.type === 'STORE_UNAVAILABLE', {
    what: `${path} to wait for the store`,
    explain: longshore.longshore.output
  })
}

describe('a source', () => {
  test('of no bytes is an object, a record and a message like another', async () => {
    await writeSource(longshore.root, 'empty', 0)
    const file = await longshore.becomes('empty', 'notified')
    expect(file).toMatchObject({ size: 0, object: { size: 0, checksum: { algorithm: 'crc32', value: '00000000' } } })
    await whole()
  })

  test.each([
    ['is rewritten with the same size', rewrite, LARGE_BYTES],
    ['is cut short', (path: string) => truncate(path, 20 * MiB), 20 * MiB],
    ['grows', (path: string) => appendFile(path, Buffer.alloc(MiB, 'more')), LARGE_BYTES + MiB]
  ])('that %s while it is read is stored as it is then, and nothing before', async (how, change, sizeBytes) => {
    await underWay(how)
    await change(at(how))
    longshore.proxy.throttle(null)
    const file = await longshore.becomes(how, 'notified')
    expect(file).toMatchObject({ version: 1, size: sizeBytes })
    expect(statusesOf(file).filter((status: string) => status === 'uploaded')).toHaveLength(1)
    expect(statusesOf(file).filter((status: string) => status === 'downloading').length).toBeGreaterThan(1)
    await whole()
  })

  test('whose connection falls silent in mid-file goes on over a new one, from its parts', async () => {
    const received = longshore.proxy.received
    const { accepted } = longshore.proxy
    await underWay('half-open')
    longshore.proxy.silence()
    const silentSince = Date.now()
    longshore.proxy.throttle(null)
    const file = await longshore.becomes('half-open', 'notified')
    expect(longshore.proxy.accepted).toBeGreaterThan(accepted)
    expect(statusesOf(file)).toEqual(['pending', 'downloading', 'pending', 'downloading', 'uploaded', 'notified'])
    expect(file.history[2].reason).toMatch(/connection .* was lost/)
    expect(Date.parse(file.history[2].at) - silentSince).toBeLessThan(LEASE_MS + SKEW_MS)
    expect(longshore.proxy.received - received).toBeLessThan(LARGE_BYTES + IN_FLIGHT_BYTES)
    // The server never hears that its half of the connection was left, and keeps what was open over it.
    longshore.proxy.cut()
    await whole()
  })

  test('that is larger than the store takes fails before a byte of it is read', async () => {
    await whole()
    const received = longshore.proxy.received
    await writeFile(at('huge'), '')
    await truncate(at('huge'), TOO_LARGE_BYTES)
    const file = await longshore.becomes('huge', 'failed')
    expect(file).toMatchObject({ size: TOO_LARGE_BYTES, object: null, error: { type: 'FILE_TOO_LARGE' } })
    expect(file.error.message).toMatch(/6597069766656 bytes; the store takes 5497558138880/)
    expect(longshore.proxy.received - received).toBeLessThan(256 * KiB)
    await rm(at('huge'))
  })

  test('that is removed before it is read has vanished, and one that is renamed is a file of its own', async () => {
    await writeSource(longshore.root, 'removed', 8 * MiB)
    await writeSource(longshore.root, 'before', 8 * MiB)
    await untilTried('removed')
    await untilTried('before')
    const received = longshore.proxy.received
    await rm(at('removed'))
    await rename(at('before'), at('after'))
    longshore.s3!.fault = null
    const [removed, before, after] = await Promise.all([
      longshore.becomes('removed', 'vanished'),
      longshore.becomes('before', 'vanished'),
      longshore.becomes('after', 'notified')
    ])
    expect([removed.object, before.object]).toEqual([null, null])
    expect(after.id).not.toBe(before.id)
    // The one that is there, once.
    expect(longshore.proxy.received - received).toBeLessThan(10 * MiB)
    const [stored, source] = await Promise.all([contentOf(after.id), readFile(at('after'))])
    expect(stored).toBe(createHash('sha256').update(source).digest('hex'))
  })

  test.each([
    ['removed', (path: string) => rm(path)],
    ['renamed', (path: string) => rename(path, at(RENAMED))]
  ])('that is %s while it is read has vanished and left nothing in the store', async (how, change) => {
    const name = `${how} in mid-file`
    await underWay(name)
    await change(at(name))
    longshore.proxy.throttle(null)
    expect((await longshore.becomes(name, 'vanished')).object).toBeNull()
    const key = `partner${at(name)}`
    expect([await longshore.store!.head(key), await longshore.store!.listUploads(key)]).toEqual([null, []])
    if (how === 'renamed') expect((await longshore.becomes(RENAMED, 'notified')).version).toBe(1)
  })

  test('that is a folder of thousands of files is listed, stored and announced whole, and the next scan finds nothing new', async () => {
    const { api } = longshore.longshore
    const count = async (): Promise<number> => (await api.get(`/stats`)).files.notified.count
    const all = (await count()) + MANY
    await mkdir(at('many'))
    for (let index = 0; index < MANY; index++) await writeFile(at(`many/${index}`), `file ${index}`)
    await waitFor(async () => (await count()) === all, {
      timeoutMs: 240_000,
      what: 'every file to be notified',
      explain: async () => `${await count()}\n${longshore.longshore.output()}`
    })
    const [{ id }] = (await api.get('/servers')).items
    expect(await api.post(`/servers/${id}/scan?wait=true`)).toMatchObject({ listed: all, new: 0, pending: 0 })
  })

  test('whatever became of it, has left nothing behind', async () => {
    const past = new Map(
      ['removed', 'before', 'huge', 'removed in mid-file', 'renamed in mid-file'].map((name) => [at(name), []])
    )
    expect(await longshore.problems({ rules: { end: 'settled' }, past })).toEqual([])
  })
})

async function contentOf(id: string): Promise<string> {
  const { port, keys } = longshore.longshore
  const response = await fetch(`http://127.0.0.1:${port}/api/v1/files/${id}/content`, {
    headers: { authorization: `Bearer ${keys.admin}` }
  })
  expect(response.status).toBe(200)
  return createHash('sha256')
    .update(await response.bytes())
    .digest('hex')
}
