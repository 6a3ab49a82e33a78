import { createHash } from 'node:crypto'
import { readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Client } from 'minio'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, type Longshore, startLongshore, waitFor } from '../support/longshore.ts'
import { temporaryFolder } from '../support/process.ts'
import type { Json } from '../support/rest.ts'
import { startScriptedSftp } from '../support/scripted-sftp.ts'
import { writeSource } from '../support/source-files.ts'
import { startWorld, type World } from '../support/world.ts'

const MiB = 1024 * 1024
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

/** GET as a browser would, without following a redirect unless it is told to. */
async function get(longshore: Longshore, path: string, headers: object = {}, init: RequestInit = {}) {
  const url = `http://127.0.0.1:${longshore.port}/api/v1${path}`
  const authorization = `Bearer ${longshore.keys.viewer}`
  const answer = await fetch(url, { redirect: 'manual', ...init, headers: { authorization, ...headers } })
  return { status: answer.status, headers: answer.headers, bytes: Buffer.from(await answer.arrayBuffer()) }
}

describe('the bytes of stored files', () => {
  let world: World
  let backends: Backends
  let longshore: Longshore
  let consumer: Consumer
  let minio: Client
  const name = 'счёт "Q1"\n🚢.csv'
  const files: Record<string, Json> = {}

  const fileAt = async (path: string): Promise<Json> => {
    const { items } = await longshore.api.get(`/files?path=${encodeURIComponent(join(backends.root, path))}`)
    return items[0]
  }
  const notified = (path: string, more: (file: Json) => boolean = () => true) =>
    waitFor(
      async () => {
        const file = await fileAt(path)
        return file?.status === 'notified' && more(file) ? file : null
      },
      { what: `${path} to be notified`, explain: longshore.output }
    )
  const source = (path: string) => readFile(join(backends.root, path))
  const refetch = (file: Json) => longshore.api.post(`/files/${file.id}/refetch`)
  const settledAgain = async (file: Json) => {
    const before = file.updatedAt
    return notified(file.path.slice(backends.root.length + 1), (now) => now.id === file.id && now.updatedAt !== before)
  }
  const messagesOf = (file: Json) => consumer.messages.filter(({ event }) => event.data.fileId === file.id)

  beforeAll(async () => {
    world = await startWorld()
    ;({ backends, longshore, consumer } = world)
    const { hostname, port } = new URL(backends.minio.endpoint)
    const { accessKey, secretKey } = backends.minio
    minio = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey })
    for (const [path, size] of [
      [name, 100_000],
      ['small', 4000],
      ['large', 24 * MiB],
      ['empty', 0]
    ] as const)
      await writeSource(backends.root, path, size)
    const policy = { roots: [backends.root], interval: 1, settle: { checks: 1, seconds: 0 } }
    await longshore.api.post('/servers', backends.server(policy))
    for (const path of [name, 'small', 'large', 'empty']) files[path] = await notified(path)
  })
  afterAll(() => world?.stop())

  test('are had by a signed address of the store, under their own name', async () => {
    const redirect = await get(longshore, `/files/${files[name].id}/content`)
    expect(redirect.status).toBe(302)
    const location = redirect.headers.get('location')!
    expect(location).toContain('X-Amz-Signature=')
    const answer = await fetch(location, { headers: { range: 'bytes=0-9' } })
    expect(answer.status).toBe(206)
    expect(answer.headers.get('content-disposition')).toContain(
      "filename*=UTF-8''%D1%81%D1%87%D1%91%D1%82%20%22Q1%22%0A"
    )
    expect(Buffer.from(await answer.arrayBuffer())).toEqual((await source(name)).subarray(0, 10))
    const whole = await fetch(location)
    expect(sha256(Buffer.from(await whole.arrayBuffer()))).toBe(sha256(await source(name)))
  })

  test('are streamed where no redirect is wanted, whole and by range', async () => {
    const path = `/files/${files.large.id}/content?redirect=false`
    const expected = await source('large')
    const whole = await get(longshore, path)
    expect(whole.status).toBe(200)
    expect(whole.headers.get('content-length')).toBe(String(24 * MiB))
    expect(whole.headers.get('accept-ranges')).toBe('bytes')
    expect(whole.headers.get('content-disposition')).toBe('attachment; filename="large"')
    expect(sha256(whole.bytes)).toBe(sha256(expected))
    const etag = whole.headers.get('etag')!
    const part = await get(longshore, path, { range: 'bytes=10000000-20000000', 'if-range': etag })
    expect(part.status).toBe(206)
    expect(part.headers.get('content-range')).toBe(`bytes 10000000-20000000/${24 * MiB}`)
    expect(part.bytes.equals(expected.subarray(10_000_000, 20_000_001))).toBe(true)
    const end = await get(longshore, path, { range: 'bytes=-5' })
    expect(end.bytes).toEqual(expected.subarray(-5))
    const behind = await get(longshore, path, { range: `bytes=${24 * MiB}-` })
    expect(behind.status).toBe(416)
    expect(behind.headers.get('content-range')).toBe(`bytes */${24 * MiB}`)
    expect(JSON.parse(behind.bytes.toString())).toMatchObject({ status: 416, code: 'RANGE_NOT_SATISFIABLE' })
    expect((await get(longshore, path, { 'if-none-match': etag })).status).toBe(304)
    const empty = await get(longshore, `/files/${files.empty.id}/content?redirect=false`, { range: 'bytes=0-' })
    expect([empty.status, empty.bytes.length]).toEqual([200, 0])
  })

  test('a HEAD says what a GET would bring', async () => {
    const head = await get(longshore, `/files/${files.small.id}/content`, {}, { method: 'HEAD' })
    expect(head.status).toBe(200)
    expect(head.headers.get('content-length')).toBe('4000')
    expect(head.headers.get('content-disposition')).toBe('attachment; filename="small"')
    expect(head.headers.get('etag')).toBe(`"${files.small.object.etag}"`)
  })

  test('are not there for an unknown file, an unknown parameter, or a caller without a key', async () => {
    expect((await get(longshore, '/files/absent/content')).status).toBe(404)
    const path = `/files/${files.small.id}/content`
    for (const query of ['?redirect=maybe', '?colour=red'])
      expect((await get(longshore, path + query)).status).toBe(422)
    expect((await longshore.api.request('GET', path, undefined, { key: null })).status).toBe(401)
  })

  test.each(['small', 'large'])(
    'an object that was deleted from the store is missed, and a refetch brings it back: %s',
    async (path) => {
      const file = files[path]
      const sent = messagesOf(file).length
      await minio.removeObject(backends.bucket, file.object.key)
      const missing = await longshore.api.request('GET', `/files/${file.id}/content`)
      expect(missing).toMatchObject({ status: 404, body: { code: 'STORE_NO_SUCH_OBJECT', status: 404 } })
      expect(missing.body.detail).toContain('refetch')
      expect(await refetch(file)).toMatchObject({ id: file.id, object: { key: file.object.key } })
      const again = await settledAgain(file)
      expect(again).toMatchObject({ version: 1, error: null, object: { checksum: file.object.checksum } })
      const content = await get(longshore, `/files/${file.id}/content?redirect=false`)
      expect(sha256(content.bytes)).toBe(sha256(await source(path)))
      await waitFor(() => messagesOf(file).length > sent, { what: 'the message of the refetch' })
      expect(new Set(messagesOf(file).map(({ messageId }) => messageId)).size).toBe(1)
    }
  )

  test.each(['small', 'large'])(
    'an object that somebody wrote over is refused, and a refetch mends it: %s',
    async (path) => {
      const file = files[path]
      await minio.putObject(backends.bucket, file.object.key, Buffer.from('something else'))
      const other = await longshore.api.request('GET', `/files/${file.id}/content`)
      expect(other).toMatchObject({ status: 409, body: { code: 'CONFLICT' } })
      const before = await longshore.api.get(`/files/${file.id}`)
      await refetch(before)
      const again = await settledAgain(before)
      expect(again.object).toMatchObject({ key: file.object.key, checksum: file.object.checksum, size: file.size })
      const content = await get(longshore, `/files/${file.id}/content?redirect=false`)
      expect(sha256(content.bytes)).toBe(sha256(await source(path)))
    }
  )

  test.each(['small', 'large'])('what looks like the stored object is copied again all the same: %s', async (path) => {
    const before = await longshore.api.get(`/files/${files[path].id}`)
    const { metaData } = await minio.statObject(backends.bucket, before.object.key)
    const bytes = Buffer.from(await source(path))
    bytes[100]! ^= 1
    const metadata = Object.fromEntries(Object.entries(metaData).filter(([name]) => name.startsWith('longshore-')))
    await minio.putObject(backends.bucket, before.object.key, bytes, bytes.length, metadata)
    await refetch(before)
    await settledAgain(before)
    const content = await get(longshore, `/files/${before.id}/content?redirect=false`)
    expect(sha256(content.bytes)).toBe(sha256(await source(path)))
  })

  test('a source that holds another content is not written over what was announced, but becomes a new version', async () => {
    await writeSource(backends.root, 'edited', 5000)
    const file = await notified('edited')
    const before = await source('edited')
    const times = new Date(Date.parse(file.mtime))
    // The same size and the same time: only the bytes tell.
    await writeFile(join(backends.root, 'edited'), Buffer.alloc(5000, 'x'))
    await utimes(join(backends.root, 'edited'), times, times)
    await refetch(file)
    const next = await notified('edited', ({ version }) => version === 2)
    const first = await longshore.api.get(`/files/${file.id}`)
    expect(first).toMatchObject({ status: 'notified', error: { type: 'SOURCE_CHANGED' }, object: file.object })
    const bytesOf = async (id: string) => (await get(longshore, `/files/${id}/content?redirect=false`)).bytes
    expect((await bytesOf(file.id)).equals(before)).toBe(true)
    expect((await bytesOf(next.id)).equals(await source('edited'))).toBe(true)
    expect(next.notification.messageId).not.toBe(first.notification.messageId)
    const refused = await longshore.api.request('POST', `/files/${file.id}/refetch`)
    expect(refused).toMatchObject({
      status: 409,
      body: { code: 'CONFLICT', detail: expect.stringContaining('version 2') }
    })
  })

  test('a source that is gone leaves the file as it was, with the reason', async () => {
    await writeSource(backends.root, 'gone', 300)
    const file = await notified('gone')
    await rm(join(backends.root, 'gone'))
    await refetch(file)
    const after = await waitFor(async () => (await longshore.api.get(`/files/${file.id}`)).error && fileAt('gone'), {
      what: 'the refetch to fail'
    })
    expect(after).toMatchObject({ status: 'notified', error: { type: 'SFTP_NO_SUCH_PATH' }, object: file.object })
    expect((await get(longshore, `/files/${file.id}/content?redirect=false`)).bytes).toHaveLength(300)
  })

  test('a viewer may not ask for a refetch, and a file that is not stored has none', async () => {
    const { viewer } = longshore.keys
    const path = `/files/${files.small.id}/refetch`
    expect((await longshore.api.request('POST', path, undefined, { key: viewer })).status).toBe(403)
    expect((await longshore.api.request('POST', '/files/absent/refetch')).status).toBe(404)
    await longshore.api.post(
      '/servers',
      backends.server({ name: 'slow', roots: [backends.root], settle: { checks: 9, seconds: 600 } })
    )
    const { items } = await waitFor(
      async () => {
        const page = await longshore.api.get('/files?serverId=slow&limit=1')
        return page.items.length > 0 ? page : null
      },
      { what: 'a file to settle' }
    )
    for (const [method, what] of [
      ['POST', 'refetch'],
      ['GET', 'content']
    ] as const) {
      const answer = await longshore.api.request(method, `/files/${items[0].id}/${what}`)
      expect(answer).toMatchObject({
        status: 409,
        body: { code: 'CONFLICT', detail: expect.stringContaining('settling') }
      })
    }
  })

  test('the timeline counts what was done, by server, and after a restart too', async () => {
    const partner = await longshore.api.get('/servers/partner')
    const total = async (query: string) => {
      const { items } = await longshore.api.get(`/stats/timeline?${query}`)
      const sum = (what: string) => items.reduce((all: number, item: Json) => all + item[what].count, 0)
      return { found: sum('found'), stored: sum('stored'), announced: sum('announced') }
    }
    // Four, "edited" in two versions, "gone"; six refetches stored and announced again.
    const expected = { found: 7, stored: 13, announced: 13 }
    for (const resolution of ['minute', 'hour', 'day'])
      expect(await total(`resolution=${resolution}&serverId=partner`)).toEqual(expected)
    expect(await total(`serverId=${partner.id}`)).toEqual(expected)
    await longshore.restart()
    expect(await total('resolution=hour&serverId=partner')).toEqual(expected)
    const all = await longshore.api.get('/stats/timeline?resolution=day')
    expect(all.items).toHaveLength(30)
    expect(all.items.at(-1).found.count).toBeGreaterThan(7)
    for (const query of ['resolution=week', 'since=yesterday', 'colour=red', 'since=2030-01-02&until=2030-01-01'])
      expect((await longshore.api.request('GET', `/stats/timeline?${query}`)).status).toBe(422)
  })
})

describe('the bytes of files in a folder', () => {
  test('are streamed, since a folder signs no addresses', async () => {
    const folder = await temporaryFolder('content')
    const sftp = await startScriptedSftp(folder.path)
    const longshore = await startLongshore({})
    try {
      await writeFile(join(folder.path, 'a.txt'), 'some text')
      const { host, port, username, password } = sftp
      const policy = { roots: ['/'], interval: 1, settle: { checks: 1, seconds: 0 } }
      await longshore.api.post('/servers', { name: 'one', host, port, username, password, ...policy })
      const file = await waitFor(async () => (await longshore.api.get('/files?status=notified')).items[0], {
        what: 'the file to be notified',
        explain: longshore.output
      })
      const part = await get(longshore, `/files/${file.id}/content`, { range: 'bytes=5-' })
      expect([part.status, part.bytes.toString()]).toEqual([206, 'text'])
      await rm(new URL(file.object.url))
      expect((await get(longshore, `/files/${file.id}/content`)).status).toBe(404)
    } finally {
      await longshore.stop()
      await sftp.stop()
      await folder.remove()
    }
  })
})
