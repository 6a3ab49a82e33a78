import { beforeEach, describe, expect, test } from '@jest/globals'
import type { AfterUploadOutcome } from '../../domain/after-upload.ts'
import { IngestError } from '../../domain/errors.ts'
import type { Explained, Verdict } from '../../domain/explain.ts'
import { recordedWhy } from '../../domain/explain.ts'
import * as machine from '../../domain/file.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import type { Sighting } from '../../domain/readiness.ts'
import { refetch } from '../../domain/refetch.ts'
import type { ServerPolicy } from '../../domain/server.ts'
import { rulesOf } from '../../domain/sighting.ts'
import type { Collection } from '../../drivers/db/collection.ts'
import { FileRecords, fileIndexes } from '../../drivers/db/file-records.ts'
import { browseFolder } from '../../workers/browse.ts'
import { dryRun } from '../../workers/dry-run.ts'
import { type ExplainPorts, explainPath } from '../../workers/explain-path.ts'
import { scanServer } from '../../workers/scan.ts'
import { type FakeSftp, fakeSftp, type Node } from '../support/fake-sftp.ts'
import { memoryCollection } from '../support/memory-collection.ts'
import { scanPolicy } from '../support/scan-policy.ts'

const basis: ServerPolicy = {
  ...scanPolicy,
  roots: ['/in'],
  maxDepth: 2,
  exclude: ['*.bak', 'old/**'],
  tempPatterns: ['*.part', '.*'],
  emptyFiles: 'skip',
  maxSize: 1000,
  movedInto: ['/in/done']
}
const file: Node = { kind: 'file', size: 10, mtime: 100 }
const denied = new IngestError('SFTP_PERMISSION_DENIED', 'denied')
const signal = new AbortController().signal

let collection: Collection<FileRecord>
let records: FileRecords
beforeEach(() => {
  collection = memoryCollection<FileRecord>(fileIndexes)
  records = new FileRecords(collection, {
    keyOf: ({ path }: FileRecord) => `partner${path}`,
    otherKeyOf: (key: string) => key
  } as never)
})

function ports(policy: ServerPolicy) {
  const rules = rulesOf({ id: 's1', name: 'partner', policy, scanEpoch: 1 })
  const asked: ExplainPorts = {
    signal,
    preview: (sightings: Sighting[]) => records.preview(rules, sightings, Date.now()),
    recorded: async (path) => {
      const known = (await records.latest('s1', [path])).get(path)
      return known
        ? { ...recordedWhy(known), file: { id: known._id, version: known.version, status: known.status } }
        : null
    }
  }
  return { rules, asked, unstored: (after: string) => records.unstored('s1', 2, after) }
}

/** A real scan. */
function scanned(fake: FakeSftp, policy: ServerPolicy) {
  const { rules, unstored } = ports(policy)
  return scanServer(fake.sftp, policy, {
    signal,
    now: Date.now,
    unstored,
    register: (sightings) => records.register(rules, sightings, Date.now()),
    vanished: async (ids) => {
      await records.changeEach(
        ids.map((id) => ({ id })),
        (one) => machine.vanish(one, Date.now())
      )
    }
  })
}

/** The answers of an explanation, of a page of its folder and of a dry run: one and the same. */
async function explained(fake: FakeSftp, path: string, changes: Partial<ServerPolicy> = {}): Promise<Explained> {
  const policy = { ...basis, ...changes }
  const { asked, unstored } = ports(policy)
  const before = JSON.stringify(await collection.find({}))
  const answer = await explainPath(fake.sftp, policy, path, asked)
  const folder = path.slice(0, path.lastIndexOf('/')) || '/'
  const { items } = await browseFolder(fake.sftp, policy, { path: folder, after: null, limit: 500 }, asked).catch(
    () => ({
      items: []
    })
  )
  const onPage = items.find((one) => one.path === answer.path)
  const run = await dryRun(fake.sftp, policy, 1000, { ...asked, unstored }).catch(() => ({ items: [] as Explained[] }))
  const inRun = run.items.filter((one) => one.path === answer.path).at(-1)
  for (const other of [onPage, inRun]) {
    if (other && answer.verdict !== 'missing') expect([other.verdict, other.why]).toEqual([answer.verdict, answer.why])
  }
  expect(JSON.stringify(await collection.find({}))).toBe(before)
  return answer
}

const tree: Record<string, Node> = {
  '/in/fine.csv': file,
  '/in/a.bak': file,
  '/in/a.part': file,
  '/in/.hidden': file,
  '/in/.longshore-12': file,
  '/in/old/x': file,
  '/in/empty': { kind: 'file', size: 0 },
  '/in/huge': { kind: 'file', size: 1001 },
  '/in/pipe': { kind: 'other' },
  '/in/link': { kind: 'link', to: '/in/fine.csv' },
  '/in/folder-link': { kind: 'link', to: '/out' },
  '/in/bad\ufffdname': { kind: 'bad', reason: 'not UTF-8' },
  '/in/locked': { kind: 'folder', error: denied },
  '/in/locked/x': file,
  '/in/1/2/3/x': file,
  '/in/done/x': file,
  '/out/x': file
}

describe('why a file is taken or not', () => {
  test.each<[string, Verdict, string]>([
    ['/in/fine.csv', 'taken', 'new: ready to be copied'],
    ['/in/a.bak', 'ignored', 'matched by exclude, `*.bak`'],
    ['/in/a.part', 'ignored', 'a temporary name, by `*.part`'],
    ['/in/.hidden', 'ignored', 'a temporary name, by `.*`'],
    ['/in/.longshore-12', 'ignored', 'a working file of Longshore'],
    ['/in/old', 'folder', 'scanned'],
    ['/in/old/x', 'ignored', 'matched by exclude, `old/**`'],
    ['/in/empty', 'skipped', 'new: empty'],
    ['/in/huge', 'skipped', 'new: too large: 1001 bytes, maxSize is 1000'],
    ['/in/pipe', 'ignored', 'not a regular file'],
    ['/in/link', 'ignored', 'a link, and symlinks is "skip"'],
    ['/in/bad\ufffdname', 'quarantined', 'quarantined: its name is not UTF-8'],
    ['/in/1/2', 'folder', 'scanned'],
    ['/in/1/2/3', 'ignored', 'deeper than maxDepth, 2'],
    ['/in/1/2/3/x', 'ignored', 'its folder /in/1/2/3: deeper than maxDepth, 2'],
    ['/in/done', 'ignored', 'in a folder that afterUpload moves files into'],
    ['/in/done/x', 'ignored', 'its folder /in/done: in a folder that afterUpload moves files into'],
    ['/out/x', 'ignored', 'outside the roots'],
    ['/in', 'folder', 'a root, scanned'],
    ['/in/nothing', 'missing', 'there is no such file on the server; and there is no record of it']
  ])('%s is %s: %s', async (path, verdict, why) => {
    expect(await explained(fakeSftp(tree), path)).toMatchObject({ verdict, why })
  })

  test('what lies in a folder that cannot be listed is unreadable, with the reason', async () => {
    const { sftp } = fakeSftp(tree)
    const refusing = {
      ...sftp,
      list: (path: string) => {
        if (path === '/in/locked') throw denied
        return sftp.list(path)
      }
    }
    for (const path of ['/in/locked', '/in/locked/x']) {
      const { verdict, why } = await explainPath(refusing, basis, path, ports(basis).asked)
      expect(verdict).toBe('unreadable')
      expect(why).toContain('cannot be listed: denied')
    }
  })

  test('include, recursion and markers have their say', async () => {
    const fake = fakeSftp({
      '/in/a.csv': file,
      '/in/b.txt': file,
      '/in/b.txt.done': { ...file, mtime: 200 },
      '/in/sub/c': file
    })
    expect((await explained(fake, '/in/a.csv', { include: ['*.txt', '*.xml'] })).why).toBe(
      'not matched by include, `*.txt *.xml`'
    )
    expect((await explained(fake, '/in/sub/c', { recursive: false })).why).toContain('recursive is off')
    const marker = { suffix: '.done' }
    expect(await explained(fake, '/in/a.csv', { marker })).toMatchObject({
      verdict: 'waits',
      why: expect.stringContaining('waits for its marker a.csv.done')
    })
    expect(await explained(fake, '/in/b.txt', { marker })).toMatchObject({ verdict: 'taken' })
    expect(await explained(fake, '/in/b.txt.done', { marker })).toMatchObject({ verdict: 'ignored', why: 'a marker' })
  })

  test('links are followed as far as the roots reach', async () => {
    const fake = fakeSftp({
      ...tree,
      '/in/old/z': file,
      '/in/inner': { kind: 'link', to: '/elsewhere' },
      '/elsewhere/x': file,
      '/in/dangling': { kind: 'link', to: '/nowhere' }
    })
    const symlinks = 'follow'
    expect(await explained(fake, '/in/folder-link/x', { symlinks })).toMatchObject({
      verdict: 'ignored',
      why: 'its folder /in/folder-link: a link to /out, outside the roots'
    })
    expect(await explained(fake, '/in/dangling', { symlinks })).toMatchObject({ why: 'a link that leads nowhere' })
    expect(await explained(fake, '/in/inner/x', { symlinks, roots: ['/in', '/elsewhere'] })).toMatchObject({
      verdict: 'ignored',
      why: expect.stringContaining('scanned under another name')
    })
  })

  test('a path below a root that is a link is explained under the name that its record has', async () => {
    const fake = fakeSftp({ '/srv/real/a': file, '/drop': { kind: 'link', to: '/srv/real' } })
    expect(await explained(fake, '/drop/a', { roots: ['/drop'] })).toMatchObject({
      path: '/srv/real/a',
      verdict: 'taken'
    })
    expect(await explained(fake, '/srv/real/a', { roots: ['/drop'] })).toMatchObject({ verdict: 'taken' })
  })
})

describe('why a recorded file is where it is', () => {
  const path = '/in/fine.csv'
  const policy = { ...basis, settle: { checks: 1, seconds: 0 } }
  let fake: FakeSftp

  beforeEach(async () => {
    fake = fakeSftp(tree)
  })
  const record = async () => (await records.latest('s1', [path])).get(path)!
  const become = async (change: (one: FileRecord) => FileRecord | null) => {
    const from = await record()
    expect(await collection.replaceEach([{ from, to: change(from)! }])).toEqual([true])
  }
  const now = () => Date.now()
  const claim = () => become((one) => machine.claim(one, 'w1', 'partner/in/fine.csv', now()))
  const object = {
    bucket: 'b',
    key: 'partner/in/fine.csv',
    url: 'u',
    etag: 'e',
    size: 10,
    checksum: { algorithm: 'crc32' as const, value: '0' }
  }
  const finish = (outcome: machine.Outcome) => become((one) => machine.finish(one, one.epoch, outcome, now(), 0.5))
  const stored = () => finish({ kind: 'stored', object, messageId: 'm' })
  const announce = async () => {
    await become((one) => machine.claimAnnouncement(one, now()))
    await become((one) => machine.announced(one, one.announcement!.epoch, now()))
  }
  const change = () => fake.nodes.set(path, { ...file, size: 11 })

  test('settling: which look it is and when the next one comes', async () => {
    const settle = { checks: 3, seconds: 60 }
    await scanned(fake, { ...policy, settle })
    const answer = await explained(fake, path, { settle })
    expect(answer).toMatchObject({
      verdict: 'waits',
      why: 'settling: look 1 of 3',
      file: { status: 'settling', version: 1 }
    })
    expect(answer.nextAt).toBe((await record()).dueAt)
    change()
    expect((await explained(fake, path, { settle })).why).toBe('changed since the last look: look 1 of 3')
  })

  test('too young: until when', async () => {
    fake.nodes.set(path, { ...file, mtime: Math.floor(now() / 1000) })
    await scanned(fake, { ...policy, minAge: 600 })
    const answer = await explained(fake, path, { minAge: 600 })
    expect(answer).toMatchObject({ verdict: 'waits', why: expect.stringContaining('too young: minAge is 600 s') })
    expect(answer.nextAt).toBeGreaterThan(now() + 590_000)
  })

  test('pending, downloading, failing and failed', async () => {
    await scanned(fake, policy)
    expect(await explained(fake, path)).toMatchObject({ verdict: 'recorded', why: 'recorded, waits for a worker' })
    const turned = await explained(fake, path, { order: 'name', afterUpload: 'delete' })
    expect(turned).toMatchObject({ verdict: 'recorded', why: 'recorded, waits for a worker' })
    await claim()
    expect((await explained(fake, path)).why).toBe('is being copied by w1, attempt 1 of 8')
    const error = { type: 'STALLED', message: 'no byte for 30 s', at: now() }
    await finish({ kind: 'retry', error })
    const waiting = await explained(fake, path)
    expect(waiting.why).toBe('waits for attempt 2 of 8: no byte for 30 s')
    expect(waiting.nextAt).toBe((await record()).dueAt)
    await become((one) => ({ ...one, dueAt: 0 }))
    await claim()
    await finish({ kind: 'rejected', error })
    expect((await explained(fake, path)).why).toBe(
      'failed after attempt 2 of 8: no byte for 30 s; tried again when it changes or by hand'
    )
    change()
    expect(await explained(fake, path)).toMatchObject({
      verdict: 'taken',
      why: 'changed since it was failed: ready to be copied'
    })
  })

  test('stored, announced, changed since, and a new version of it', async () => {
    await scanned(fake, policy)
    await claim()
    await stored()
    expect((await explained(fake, path)).why).toMatch(
      /^recorded as version 1 at .*, stored as partner\/in\/fine.csv at .*, not announced yet$/
    )
    await announce()
    const done = await explained(fake, path)
    expect(done).toMatchObject({ verdict: 'recorded', file: { status: 'notified', version: 1 } })
    expect(done.why).toMatch(
      /^recorded as version 1 at 2.*Z, stored as partner\/in\/fine.csv at 2.*Z, announced at 2.*Z$/
    )
    change()
    expect((await explained(fake, path)).why).toContain('it has changed since, and onChange is "ignore"')
    expect(await explained(fake, path, { onChange: 'version' })).toMatchObject({
      verdict: 'taken',
      why: 'changed since version 1: becomes version 2, ready to be copied'
    })
    await become((one) => refetch(one, now()))
    expect((await explained(fake, path)).why).toContain('being fetched again')
    await become((one) => machine.cancel(one, now()))
    await become((one) => ({ ...one, released: true }))
    expect((await explained(fake, path)).why).toBe('version 1 was let go: becomes version 2, ready to be copied')
  })

  test('announced, and what became of the source then', async () => {
    await scanned(fake, { ...policy, afterUpload: 'delete' })
    await claim()
    await stored()
    await announce()
    expect(await explained(fake, path)).toMatchObject({
      why: expect.stringMatching(/, to be deleted or moved on the server$/)
    })
    const end = (outcome: AfterUploadOutcome) =>
      become((one) => machine.endAfterUpload(one, one.afterUpload!.epoch, outcome, now(), 0.5))
    const error = { type: 'SFTP_PERMISSION_DENIED', message: 'may not', at: now() }
    await end({ kind: 'retry', error })
    const waiting = await explained(fake, path)
    expect(waiting.why).toMatch(/, to be deleted or moved on the server: may not$/)
    expect(waiting.nextAt).toBe((await record()).afterUpload!.dueAt)
    await end({ kind: 'moved', to: '/done/fine.csv' })
    fake.nodes.delete(path)
    expect((await explained(fake, path)).why).toMatch(/, then moved to \/done\/fine.csv$/)
  })

  test('vanished, back again, and gone while it is recorded', async () => {
    await scanned(fake, policy)
    fake.nodes.delete(path)
    expect(await explained(fake, path)).toMatchObject({
      verdict: 'missing',
      why: 'there is no such file on the server; its record: recorded, waits for a worker'
    })
    const { items } = await dryRun(fake.sftp, policy, 100, { ...ports(policy).asked, unstored: ports(policy).unstored })
    // A folder that is unreadable leaves the listing incomplete: nothing is called gone.
    expect(items.some((one) => one.path === path)).toBe(false)
    fake.nodes.delete('/in/locked')
    const complete = await dryRun(fake.sftp, policy, 100, { ...ports(policy).asked, unstored: ports(policy).unstored })
    expect(complete.items.find((one) => one.path === path)).toMatchObject({
      verdict: 'missing',
      why: 'recorded, and gone from the server'
    })
    await scanned(fake, policy)
    expect((await record()).status).toBe('vanished')
    expect((await explained(fake, path)).why).toContain('its record: vanished')
    fake.nodes.set(path, file)
    expect(await explained(fake, path)).toMatchObject({
      verdict: 'taken',
      why: 'was gone and is back: ready to be copied'
    })
  })

  test('skipped, and open again under another policy', async () => {
    await scanned(fake, policy)
    expect(await explained(fake, '/in/huge')).toMatchObject({ verdict: 'skipped', file: { status: 'skipped' } })
    expect(await explained(fake, '/in/huge', { maxSize: null })).toMatchObject({
      verdict: 'taken',
      why: 'was skipped, and the policy has changed: ready to be copied'
    })
  })
})

describe('a dry run', () => {
  test('counts what a scan then really does, and changes nothing', async () => {
    const fake = fakeSftp(tree)
    for (const changes of [{}, { settle: { checks: 2, seconds: 30 } }, { onChange: 'version' as const }]) {
      const policy = { ...basis, ...changes }
      fake.nodes.set('/in/fine.csv', { ...file, size: 10 + Math.floor(Math.random() * 500) })
      const { asked, unstored } = ports(policy)
      const before = await collection.find({})
      const run = await dryRun(fake.sftp, policy, 100, { ...asked, unstored })
      expect(await collection.find({})).toEqual(before)
      const { summary } = await scanned(fake, policy)
      const counts = ({ listed, new: fresh, settling, pending, skipped, quarantined }: typeof summary) => [
        listed,
        fresh,
        settling,
        pending,
        skipped,
        quarantined
      ]
      expect(counts(run)).toEqual(counts(summary))
      expect(run.problem).toMatchObject({ type: 'ROOT_UNREADABLE' })
    }
  })

  test('shows first what something would happen to, and says how many it left out', async () => {
    const many = Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`/in/${String(i).padStart(3, '0')}`, file]))
    const fake = fakeSftp(many)
    await scanned(fake, basis)
    fake.nodes.set('/in/zzz.bak', file)
    fake.nodes.set('/in/zzz', file)
    const { asked, unstored } = ports(basis)
    const run = await dryRun(fake.sftp, basis, 10, { ...asked, unstored })
    expect(run.items).toHaveLength(10)
    expect(run.items.map(({ path }) => path)).toEqual(expect.arrayContaining(['/in/zzz', '/in/zzz.bak', '/in/000']))
    expect(run.leftOut).toBe(292)
    expect(run.verdicts).toMatchObject({ recorded: 300, taken: 1, ignored: 1 })
  })

  test('stays below the size of a message, however long the names are', async () => {
    const long = (i: number) => `/in/${i}${'\u0001'.repeat(240)}`
    const fake = fakeSftp(Object.fromEntries(Array.from({ length: 900 }, (_, i) => [long(i), file])))
    const { asked, unstored } = ports(basis)
    const run = await dryRun(fake.sftp, basis, 1000, { ...asked, unstored })
    expect(JSON.stringify(run).length).toBeLessThan(700_000)
    expect(run.items.length + run.leftOut).toBe(900)
    expect(run.leftOut).toBeGreaterThan(0)
  })
})

describe('a page of a folder', () => {
  const names = Array.from({ length: 25 }, (_, i) => `f${String((i * 7) % 25).padStart(2, '0')}`)

  test('pages hold every name once, in order, in whatever order the server lists them', async () => {
    const fake = fakeSftp(Object.fromEntries(names.map((name) => [`/in/${name}`, file])))
    const seen: string[] = []
    for (let after: string | null = null; ; ) {
      const page: Awaited<ReturnType<typeof browseFolder>> = await browseFolder(
        fake.sftp,
        basis,
        { path: '/in', after, limit: 4 },
        ports(basis).asked
      )
      expect(page.total).toBe(25)
      expect(page.items.length).toBeLessThanOrEqual(4)
      seen.push(...page.items.map(({ name }) => name))
      if (page.lastName === null) break
      after = page.lastName
    }
    expect(seen).toEqual([...names].sort())
  })

  test('a page stays below the size of a message, however long its paths are', async () => {
    const long = '\u0001'.repeat(6000)
    const fake = fakeSftp(Object.fromEntries(names.map((name) => [`/in/${name}${long}`, file])))
    const seen: string[] = []
    for (let after: string | null = null; ; ) {
      const asked = { path: '/in', after, limit: 500 }
      const page: Awaited<ReturnType<typeof browseFolder>> = await browseFolder(
        fake.sftp,
        basis,
        asked,
        ports(basis).asked
      )
      expect(JSON.stringify(page).length).toBeLessThan(800_000)
      seen.push(...page.items.map(({ name }) => name))
      if (page.lastName === null) break
      after = page.lastName
    }
    expect(new Set(seen).size).toBe(25)
    expect(seen).toHaveLength(25)
  })

  test('outside the roots a folder is shown all the same, and says so', async () => {
    const fake = fakeSftp({ ...tree, '/readme': file })
    const { items } = await browseFolder(fake.sftp, basis, { path: '/', after: null, limit: 100 }, ports(basis).asked)
    expect(items.map(({ name, kind, verdict, why }) => [name, kind, verdict, why])).toEqual([
      ['in', 'folder', 'folder', 'a root, scanned'],
      ['out', 'folder', 'ignored', 'outside the roots'],
      ['readme', 'file', 'ignored', 'outside the roots']
    ])
    const deep = await browseFolder(
      fake.sftp,
      { ...basis, roots: ['/in/1/2'] },
      { path: '/in', after: '0', limit: 1 },
      ports(basis).asked
    )
    expect(deep.items[0]).toMatchObject({ name: '1', verdict: 'folder', why: 'holds the root /in/1/2' })
  })

  test('a marker on another page is seen', async () => {
    const fake = fakeSftp({ '/in/a': file, '/in/a.done': { ...file, mtime: 200 } })
    const policy = { ...basis, marker: { suffix: '.done' } }
    const { items } = await browseFolder(fake.sftp, policy, { path: '/in', after: null, limit: 1 }, ports(policy).asked)
    expect(items).toMatchObject([{ name: 'a', verdict: 'taken' }])
  })

  test('a folder that cannot be listed is an error of the page', async () => {
    const asked = { path: '/in/locked', after: null, limit: 10 }
    await expect(browseFolder(fakeSftp(tree).sftp, basis, asked, ports(basis).asked)).rejects.toMatchObject({
      type: 'SFTP_PERMISSION_DENIED'
    })
  })
})
