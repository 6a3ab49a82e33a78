import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import type { Document } from '../../drivers/db/collection.ts'
import { openDatabase } from '../../drivers/db/connection.ts'
import {
  type Backends,
  cleanEnvironment,
  type Longshore,
  startBackends,
  startLongshore,
  waitFor
} from '../support/longshore.ts'
import { freePort } from '../support/ports.ts'
import { temporaryFolder } from '../support/process.ts'
import type { Json } from '../support/rest.ts'
import { type ScriptedSftp, startScriptedSftp } from '../support/scripted-sftp.ts'

const program = resolve(import.meta.dirname, '../..')
const hostile = [
  'new\nline',
  'quote"\'`$.csv',
  'tab\there',
  'счёт🚢.csv',
  'é.csv',
  'e\u0301.csv',
  '\u202egnp.exe',
  'n'.repeat(255),
  ' ',
  '-rf'
]

let backends: Backends
let longshore: Longshore
let folder: Awaited<ReturnType<typeof temporaryFolder>>
let scripted: ScriptedSftp
let inside: string

beforeAll(async () => {
  backends = await startBackends()
  longshore = await startLongshore({ backends })
  folder = await temporaryFolder('explain')
  scripted = await startScriptedSftp(folder.path)
  inside = join(backends.root, 'in')
  await mkdir(join(inside, 'deep/er/still'), { recursive: true })
  for (const name of hostile) await writeFile(join(inside, name), 'x')
  await writeFile(Buffer.concat([Buffer.from(`${inside}/bad`), Buffer.from([0xff, 0xfe])]), 'x')
  for (const name of ['a.csv', 'b.bak', '.hidden', 'empty', 'deep/er/still/c.csv']) {
    await writeFile(join(inside, name), name === 'empty' ? '' : 'hello')
  }
  await symlink('a.csv', join(inside, 'link'))
  await promisify(execFile)('mkfifo', [join(inside, 'fifo')])
  await mkdir(join(backends.root, 'many'))
  for (let i = 0; i < 1200; i++) await writeFile(join(backends.root, 'many', `${i}`), 'x')
  const policy = {
    roots: [inside],
    maxDepth: 2,
    exclude: ['*.bak'],
    emptyFiles: 'skip',
    settle: { checks: 1, seconds: 0 }
  }
  await longshore.api.post('/servers', backends.server({ ...policy, enabled: false, interval: 3600 }))
})
afterAll(async () => {
  await longshore?.stop()
  await scripted?.stop()
  await folder?.remove()
  await backends?.stop()
})

const explain = (path: string, server = 'partner') =>
  longshore.api.get(`/servers/${server}/explain?path=${encodeURIComponent(path)}`)
const browse = (path: string, query = '', server = 'partner') =>
  longshore.api.get(`/servers/${server}/browse?path=${encodeURIComponent(path)}${query}`)

/** Everything in the database, but for the traces of a connection that was held and given back. */
async function everything(): Promise<unknown> {
  const database = await openDatabase({ mongoUrl: backends.mongo.url, dataDir: 'unused' })
  try {
    const all: Record<string, Document[]> = {}
    for (const name of ['servers', 'files', 'timeline']) {
      const adapter = database.adapter(name)
      await adapter.connect()
      const collection = await database.collection<Document & { slots?: unknown }>(adapter, [])
      all[name] = await collection.find({}, { sort: { _id: 1 }, omit: ['revision', 'slots', 'slotWantedUntil'] })
    }
    return all
  } finally {
    await database.close()
  }
}

describe('a dry run', () => {
  test('says for each file what would happen, and changes nothing: no record, no state of the server, no pinned key', async () => {
    const before = await everything()
    const run = await longshore.api.post('/servers/partner/scan?dryRun=true')
    expect(await everything()).toEqual(before)
    expect(await longshore.api.get('/servers/partner')).toMatchObject({
      hostKey: null,
      lastScan: null,
      lastScanAt: null,
      state: 'paused'
    })
    // Those of hostile names, a.csv and empty; and eight that get no record.
    expect(run).toMatchObject({
      dryRun: true,
      new: hostile.length + 2,
      pending: hostile.length + 1,
      skipped: 1,
      quarantined: 1,
      leftOut: 0
    })
    expect(run.items).toHaveLength(hostile.length + 2 + 8)
    const whys = Object.fromEntries(
      run.items.map((one: Json) => [one.path.slice(inside.length + 1), [one.verdict, one.why]])
    )
    expect(whys).toMatchObject({
      'a.csv': ['taken', 'new: ready to be copied'],
      'new\nline': ['taken', 'new: ready to be copied'],
      'b.bak': ['ignored', 'matched by exclude, `*.bak`'],
      '.hidden': ['ignored', 'a temporary name, by `.*`'],
      empty: ['skipped', 'new: empty'],
      link: ['ignored', 'a link, and symlinks is "skip"'],
      fifo: ['ignored', 'not a regular file'],
      'deep/er': ['folder', 'scanned'],
      'deep/er/still': ['ignored', 'deeper than maxDepth, 2']
    })
    expect(run.verdicts).toMatchObject({ quarantined: 1, folder: 2 })
  })

  test('of a server that cannot be used is an answer with the reason, and leaves the server as it is', async () => {
    const { host, port, username } = scripted
    const login = { host, port, username, password: 'not-the-password', roots: ['/'], enabled: false }
    await longshore.api.post('/servers', { name: 'refused', ...login })
    await longshore.api.post('/servers', { ...login, name: 'closed', port: await freePort() })
    const before = await everything()
    const refused = await longshore.api.post('/servers/refused/scan?dryRun=true')
    expect(refused).toMatchObject({ listed: 0, items: [], error: { type: 'SFTP_AUTH_FAILED' } })
    expect(await longshore.api.post('/servers/closed/scan?dryRun=true')).toMatchObject({
      error: { type: 'SFTP_UNREACHABLE' }
    })
    expect(await browse('/', '', 'closed')).toMatchObject({ items: [], error: { type: 'SFTP_UNREACHABLE' } })
    const why = await explain('/a', 'closed')
    expect(why).toMatchObject({ verdict: 'unknown', error: { type: 'SFTP_UNREACHABLE' }, server: { state: 'paused' } })
    expect(why.why).toMatch(
      /^the server could not be asked: .*; the server is paused: nothing happens until it is resumed$/
    )
    expect(await everything()).toEqual(before)
    expect(scripted.logins).toBe(1)
  })

  test('shows as much of a large folder as is asked for, and says how much it left out', async () => {
    await longshore.api.post(
      '/servers',
      backends.server({ name: 'large', roots: [join(backends.root, 'many')], enabled: false })
    )
    const run = await longshore.api.post('/servers/large/scan?dryRun=true&limit=100')
    expect(run).toMatchObject({ listed: 1200, new: 1200, settling: 1200, leftOut: 1100, verdicts: { waits: 1200 } })
    expect(run.items).toHaveLength(100)
    expect(run.items[0]).toMatchObject({ verdict: 'waits', why: 'new: look 1 of 2', nextAt: expect.any(String) })
  })
})

describe('a page of a folder', () => {
  test('shows hostile names as they are, each with its why', async () => {
    const page = await browse(inside)
    const names = page.items.map(({ name }: Json) => name)
    expect(names).toEqual([...names].sort())
    for (const name of hostile) {
      const item = page.items.find((one: Json) => one.name === name)
      expect(item).toMatchObject({
        kind: 'file',
        size: 1,
        verdict: 'taken',
        path: `${inside}/${name}`,
        mtime: expect.any(String)
      })
    }
    expect(page.items.filter(({ verdict }: Json) => verdict === 'quarantined')).toMatchObject([
      { why: 'quarantined: its name is not UTF-8' }
    ])
    expect(page).toMatchObject({ path: inside, nextCursor: null, error: null, total: page.items.length })
  })

  test('pages hold every entry once', async () => {
    const seen: string[] = []
    for (let cursor = ''; ; ) {
      const page = await browse(join(backends.root, 'many'), `&limit=500${cursor}`)
      seen.push(...page.items.map(({ name }: Json) => name))
      expect(page).toMatchObject({
        total: 1200,
        items: expect.arrayContaining([expect.objectContaining({ verdict: 'ignored', why: 'outside the roots' })])
      })
      if (page.nextCursor === null) break
      cursor = `&cursor=${page.nextCursor}`
    }
    expect(new Set(seen).size).toBe(1200)
    expect(seen).toHaveLength(1200)
  })

  test('of a folder that is not there is an answer with the reason', async () => {
    expect(await browse('/no/such/folder')).toMatchObject({ items: [], error: { type: 'SFTP_NO_SUCH_PATH' } })
  })

  test('of a file says that it is one', async () => {
    const [{ path }] = (await browse(inside)).items.filter(({ kind }: Json) => kind === 'file')
    const { items, error } = await browse(path)
    expect([items, error.message]).toEqual([[], expect.stringContaining('it is a file, not a folder')])
  })
})

describe('an explanation', () => {
  test('follows a file from new to announced, and away', async () => {
    const path = join(inside, 'a.csv')
    expect(await explain(path)).toMatchObject({
      verdict: 'taken',
      why: 'new: ready to be copied; the server is paused: nothing happens until it is resumed'
    })
    await longshore.api.post('/servers/partner/resume')
    const done = await waitFor(
      async () => {
        const answer = await explain(path)
        return answer.file?.status === 'notified' ? answer : null
      },
      { what: 'a.csv to be announced', explain: longshore.output }
    )
    expect(done).toMatchObject({
      verdict: 'recorded',
      file: { version: 1 },
      server: { state: 'active', nextScanAt: expect.any(String) }
    })
    expect(done.why).toMatch(/^recorded as version 1 at .*, stored as partner\/.*a\.csv at .*, announced at /)
    await writeFile(path, 'changed since')
    expect((await explain(path)).why).toContain('it has changed since, and onChange is "ignore"')
    await rm(path)
    expect(await explain(path)).toMatchObject({ verdict: 'missing', file: { status: 'notified' } })
  })

  test('names what is in the way', async () => {
    const whys: [string, string, string][] = [
      ['deep/er/still/c.csv', 'ignored', `its folder ${inside}/deep/er/still: deeper than maxDepth, 2`],
      ['b.bak', 'ignored', 'matched by exclude, `*.bak`'],
      ['../many/1', 'ignored', 'outside the roots'],
      ['fifo', 'ignored', 'not a regular file']
    ]
    for (const [path, verdict, why] of whys) expect(await explain(join(inside, path))).toMatchObject({ verdict, why })
  })

  test('of a stopped server says why it is stopped, and does not log in', async () => {
    const { host, port, username, password } = scripted
    const wrongKey = `SHA256:${'A'.repeat(43)}`
    await longshore.api.post('/servers', {
      name: 'stopped',
      host,
      port,
      username,
      password,
      roots: ['/'],
      hostKey: wrongKey
    })
    await waitFor(async () => (await longshore.api.get('/servers/stopped')).state === 'stopped', {
      what: 'it to be stopped'
    })
    const { logins } = scripted
    const answer = await explain('/a', 'stopped')
    expect(answer).toMatchObject({
      verdict: 'unknown',
      error: { type: 'SFTP_HOST_KEY_MISMATCH' },
      server: { state: 'stopped' }
    })
    for (const [method, path] of [
      ['GET', 'browse'],
      ['POST', 'scan?dryRun=true']
    ] as const) {
      const refused = await longshore.api.request(method, `/servers/stopped/${path}`)
      expect(refused).toMatchObject({
        status: 409,
        body: { code: 'CONFLICT', detail: expect.stringContaining('is stopped') }
      })
    }
    expect(scripted.logins).toBe(logins)
  })
})

test('hostile paths, unknown parameters and callers who may not are refused', async () => {
  const fields = async (path: string) => {
    const { status, body } = await longshore.api.request('GET', `/servers/partner/${path}`)
    return [status, body.errors?.[0]?.field]
  }
  for (const path of ['in', '/in/../etc', '/./in', '/in//a', '/in%00', `/${'x'.repeat(5000)}`]) {
    expect([path.slice(0, 20), await fields(`explain?path=${path}`)]).toEqual([path.slice(0, 20), [422, 'path']])
    expect(await fields(`browse?path=${path}`)).toEqual([422, 'path'])
  }
  expect(await fields('explain')).toEqual([422, 'path'])
  expect(await fields('explain?path=/a&limit=1')).toEqual([422, 'limit'])
  expect(await fields('browse?path=/&limit=501')).toEqual([422, 'limit'])
  expect(await fields('browse?path=/&cursor=*')).toEqual([422, 'cursor'])
  const request = (path: string, options = {}) => longshore.api.request('GET', path, undefined, options)
  expect((await request('/servers/absent/explain?path=/a')).status).toBe(404)
  for (const path of ['explain?path=/a', 'browse']) {
    expect((await request(`/servers/partner/${path}`, { key: longshore.keys.viewer })).status).toBe(403)
  }
  expect((await longshore.api.request('POST', '/servers/partner/scan?limit=3')).status).toBe(422)
  expect((await longshore.api.request('POST', '/servers/partner/scan?dryRun=perhaps')).status).toBe(422)
})

describe('the console', () => {
  let child: ChildProcess | null = null
  afterAll(() => {
    child?.kill('SIGKILL')
  })

  test('explains, browses and runs dry', async () => {
    child = spawn(process.execPath, ['console.ts'], {
      cwd: program,
      env: { ...process.env, ...cleanEnvironment, TRANSPORTER: backends.nats.url },
      stdio: ['pipe', 'pipe', 'pipe']
    })
    let output = ''
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text
      })
    }
    const ended = new Promise((done) => child!.once('close', done))
    const says = (what: RegExp) => waitFor(() => what.test(output), { what: String(what), explain: () => output })
    await says(/longshore \$/)
    child.stdin!.write(`explain partner "${inside}/b.bak"\n`)
    await says(/b\.bak on partner: ignored\n {2}matched by exclude, `\*\.bak`/)
    child.stdin!.write(`browse partner ${inside}\n`)
    await says(/new\\nline[\s\S]*of \d+ entries of/)
    child.stdin!.write('scan large --dry-run\n')
    await says(/and 1150 more\n {2}1200 listed: 1200 would be new/)
    child.stdin!.write('explain partner relative\n')
    await says(/path: must be absolute/)
    child.stdin!.write('quit\n')
    await ended
  })
})
