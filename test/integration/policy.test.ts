/** What becomes of files by their server's policy, on a real OpenSSH. */
import { mkdir, readdir, readFile, realpath, rename, utimes, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Longshore, startLongshore, waitFor } from '../support/longshore.ts'
import { type Sshd, startSshd } from '../support/openssh.ts'
import { temporaryFolder } from '../support/process.ts'
import { startProxy } from '../support/proxy.ts'
import type { Json } from '../support/rest.ts'

let longshore: Longshore
let sshd: Sshd
let root: string

beforeAll(async () => {
  sshd = await startSshd()
  root = await realpath(sshd.root)
  longshore = await startLongshore({})
})
afterAll(async () => {
  await longshore?.stop()
  await sshd?.stop()
})

/** A server of its own on a folder of its own; it takes files at once unless told otherwise. */
async function partner(name: string, more: object = {}) {
  const folder = join(root, name)
  await mkdir(folder, { recursive: true })
  const { port, username, privateKey } = sshd
  const address = { host: '127.0.0.1', port, username, privateKey, roots: [folder] }
  await longshore.api.post('/servers', {
    name,
    ...address,
    interval: 1,
    settle: { checks: 1, seconds: 0 },
    ...more
  })
  const at = (path: string) => join(folder, path)
  return {
    folder,
    at,
    async put(path: string, content = path, mtime?: number) {
      await mkdir(dirname(at(path)), { recursive: true })
      // Whole at once, as a partner does who renames: a listing never sees half of it.
      await writeFile(at(`${path}.part`), content)
      if (mtime !== undefined) await utimes(at(`${path}.part`), mtime, mtime)
      await rename(at(`${path}.part`), at(path))
    },
    files: (): Promise<Json[]> => longshore.api.files(`&serverId=${name}`),
    versions: async (path: string): Promise<Json[]> =>
      (await longshore.api.files(`&serverId=${name}&path=${encodeURIComponent(at(path))}`))
        .filter((file) => file.path === at(path))
        .sort((a, b) => a.version - b.version),
    get: () => longshore.api.get(`/servers/${name}`),
    patch: (change: object) => longshore.api.request('PATCH', `/servers/${name}`, change),
    scan: () => longshore.api.post(`/servers/${name}/scan?wait=true`),
    pause: () => longshore.api.post(`/servers/${name}/pause`),
    resume: () => longshore.api.post(`/servers/${name}/resume`)
  }
}
type Partner = Awaited<ReturnType<typeof partner>>

const until = <T>(what: string, condition: () => Promise<T>) => waitFor(condition, { what, explain: longshore.output })

const latest = async (of: Partner, path: string) => (await of.versions(path)).at(-1)

const becomes = (of: Partner, path: string, wanted: (file: Json) => unknown, what: string): Promise<Json> =>
  until(`${path} to be ${what}`, async () => {
    const file = await latest(of, path)
    return file && wanted(file) ? file : null
  })
const notified = (of: Partner, path: string) => becomes(of, path, ({ status }) => status === 'notified', 'notified')
const cleared = (of: Partner, path: string, status = 'done') =>
  becomes(of, path, ({ afterUpload }) => afterUpload?.status === status, `cleared: ${status}`)

async function everything(folder: string): Promise<string[]> {
  const found = await readdir(folder, { recursive: true, withFileTypes: true })
  return found.flatMap((one) => (one.isFile() ? [join(one.parentPath, one.name).slice(folder.length + 1)] : [])).sort()
}

describe('a marker', () => {
  test('beside a file lets it through, and gets no record', async () => {
    const acme = await partner('marker', { marker: { suffix: '.done' } })
    await acme.put('a.csv')
    await acme.put('sub/b.csv')
    const waiting = await becomes(acme, 'a.csv', ({ status }) => status === 'settling', 'waiting')
    expect(waiting.reason).toContain('waits for its marker a.csv.done')
    await acme.put('a.csv.done', '')
    await notified(acme, 'a.csv')
    expect(await latest(acme, 'sub/b.csv')).toMatchObject({ status: 'settling', object: null })
    await acme.put('sub/b.csv.done', '')
    await notified(acme, 'sub/b.csv')
    expect((await acme.files()).map(({ filename }) => filename).sort()).toEqual(['a.csv', 'b.csv'])
  })

  test('of a folder lets all of it through, and one of an earlier delivery does not', async () => {
    const acme = await partner('marker-folder', { marker: { file: '_SUCCESS' } })
    await acme.put('batch/_SUCCESS', '', 1_600_000_000)
    await acme.put('batch/a', 'a', 1_700_000_000)
    await acme.put('batch/b', 'b', 1_700_000_000)
    const waiting = await becomes(acme, 'batch/a', ({ status }) => status === 'settling', 'waiting')
    expect(waiting.reason).toContain('older than the file')
    await utimes(acme.at('batch/_SUCCESS'), 1_700_000_000, 1_700_000_000)
    await Promise.all([notified(acme, 'batch/a'), notified(acme, 'batch/b')])
    expect(await acme.files()).toHaveLength(2)
  })

  test('is seen by a look between two scans that are far apart', async () => {
    const acme = await partner('marker-look', { marker: { extension: '.ok' }, interval: 86_400 })
    await acme.put('a.csv')
    await acme.scan()
    await acme.put('a.ok', '')
    await notified(acme, 'a.csv')
    expect((await acme.get()).lastScan.pending).toBe(0)
  })
})

describe('minAge', () => {
  test('keeps a file waiting until it is old enough, over a restart, and a look then takes it', async () => {
    const acme = await partner('age', { minAge: 12, interval: 86_400 })
    const born = Math.floor(Date.now() / 1000)
    await acme.put('young', 'young', born)
    await acme.put('old', 'old', born - 3600)
    await acme.scan()
    await notified(acme, 'old')
    expect(await latest(acme, 'young')).toMatchObject({
      status: 'settling',
      reason: expect.stringContaining('too young: minAge is 12 s')
    })
    await longshore.restart()
    const file = await notified(acme, 'young')
    const { history } = await longshore.api.get(`/files/${file.id}`)
    const taken = history.find(({ status }: Json) => status === 'pending')
    expect(Date.parse(taken.at)).toBeGreaterThanOrEqual((born + 12) * 1000)
    expect((await acme.get()).lastScan.listed).toBe(2)
  })
})

describe('afterUpload', () => {
  test('delete takes the file away once it is announced, and the same name again is the next version', async () => {
    const acme = await partner('delete', { afterUpload: 'delete' })
    await acme.put('a.csv', 'same', 1_700_000_000)
    const first = await cleared(acme, 'a.csv')
    expect(first).toMatchObject({ status: 'notified', version: 1, afterUpload: { error: null, movedTo: null } })
    expect(await everything(acme.folder)).toEqual([])
    const { history } = await longshore.api.get(`/files/${first.id}`)
    const states = history.map(({ status, reason }: Json) => reason ?? status)
    expect(states.indexOf('deleted from the server')).toBeGreaterThan(states.indexOf('notified'))
    // The same bytes with the same time: nothing but the name's release tells them apart.
    await acme.put('a.csv', 'same', 1_700_000_000)
    const second = await becomes(
      acme,
      'a.csv',
      ({ version, afterUpload }) => version === 2 && afterUpload?.status === 'done',
      'taken again'
    )
    expect(second.object.key).not.toBe(first.object.key)
    expect(await readFile(new URL(second.object.url), 'utf8')).toBe('same')
  })

  test('move keeps the way below the root, overwrites nothing, and its folder is never scanned', async () => {
    const acme = await partner('move', { afterUpload: { move: 'done' } })
    await acme.pause()
    await acme.put('done/eu/a.csv', 'of the partner')
    await acme.put('eu/a.csv', 'ours')
    await acme.put('b.csv', 'b')
    await acme.resume()
    const a = await cleared(acme, 'eu/a.csv')
    expect(a.afterUpload.movedTo).toMatch(/\/done\/eu\/a~[\w-]{8}\.csv$/)
    const b = await cleared(acme, 'b.csv')
    expect(b.afterUpload.movedTo).toBe(acme.at('done/b.csv'))
    expect(await everything(acme.folder)).toHaveLength(3)
    expect(await readFile(acme.at('done/eu/a.csv'), 'utf8')).toBe('of the partner')
    expect(await readFile(a.afterUpload.movedTo, 'utf8')).toBe('ours')
    const again = await acme.scan()
    expect(again).toMatchObject({ listed: 0, new: 0, complete: true })
    // A policy that keeps files from now on does not bring back what was moved.
    expect((await acme.patch({ afterUpload: 'keep' })).status).toBe(200)
    expect(await acme.scan()).toMatchObject({ listed: 0, new: 0 })
    expect(await acme.files()).toHaveLength(2)
  })

  describe('without the right to rename', () => {
    let strict: Sshd

    beforeAll(async () => {
      strict = await startSshd({ root, extraConfig: ['ForceCommand internal-sftp -P rename,posix-rename,remove'] })
    })
    afterAll(async () => {
      await strict?.stop()
    })

    const refused = async (name: string) => {
      const { port, username, privateKey } = strict
      const acme = await partner(name, { port, username, privateKey, afterUpload: 'delete' })
      await acme.put('a.csv', 'first')
      const file = await becomes(acme, 'a.csv', ({ afterUpload }) => afterUpload?.error, 'refused')
      return { acme, file }
    }
    /** As an operator does whose partner granted the right: here by the other server, which grants it. */
    const grant = async (acme: Partner) => {
      const { port, privateKey, hostKey } = sshd
      expect((await acme.patch({ port, privateKey, hostKey })).status).toBe(200)
    }

    test('the record says so, stays notified, and the file is deleted once the right is there', async () => {
      const { acme, file } = await refused('denied')
      expect(file).toMatchObject({
        status: 'notified',
        afterUpload: {
          status: 'due',
          error: { type: 'SFTP_PERMISSION_DENIED', message: expect.stringContaining('a.csv') }
        }
      })
      expect(await everything(acme.folder)).toEqual(['a.csv'])
      expect(await acme.get()).toMatchObject({ state: 'active', lastError: null })
      await grant(acme)
      expect(await cleared(acme, 'a.csv')).toMatchObject({
        status: 'notified',
        version: 1,
        afterUpload: { error: null }
      })
      expect(await everything(acme.folder)).toEqual([])
    })

    test('a file that was replaced after it was announced is left alone and is the next version', async () => {
      const { acme, file } = await refused('replaced')
      await acme.put('a.csv', 'the second one')
      await grant(acme)
      const second = await becomes(
        acme,
        'a.csv',
        ({ version, afterUpload }) => version === 2 && afterUpload?.status === 'done',
        'taken'
      )
      expect(await readFile(new URL(second.object.url), 'utf8')).toBe('the second one')
      expect(await longshore.api.get(`/files/${file.id}`)).toMatchObject({
        status: 'notified',
        afterUpload: { status: 'left' }
      })
      expect(await everything(acme.folder)).toEqual([])
    })
  })
})

describe('a process that is killed in the step after the upload', () => {
  const finishedByTheNext = async (point: string, afterUpload: object | string, left: string[]) => {
    const data = await temporaryFolder('data')
    const folder = join(root, point)
    await mkdir(folder)
    await writeFile(join(folder, 'a.csv'), 'content')
    const { port, username, privateKey } = sshd
    const fields = { host: '127.0.0.1', port, username, privateKey, roots: [folder], interval: 1, afterUpload }
    const first = await startLongshore({ env: { DATA_DIR: data.path, FAILPOINTS: `${point}=crash` } })
    try {
      await first.api.post('/servers', { name: 'acme', ...fields, settle: { checks: 1, seconds: 0 } })
      await first.processes[0]!.exited
      const names = await everything(folder)
      if (point === 'after-set-aside') expect(names).toEqual([expect.stringMatching(/^\.longshore-/)])
      else expect(names).toEqual(left)
    } finally {
      await first.stop()
    }
    const second = await startLongshore({ env: { DATA_DIR: data.path } })
    try {
      const [file] = await until('the step to be finished', async () => {
        const files = await second.api.files()
        return files[0]?.afterUpload?.status === 'done' ? files : null
      })
      const movedTo = left.length > 0 ? join(folder, left[0]!) : null
      expect(file).toMatchObject({ status: 'notified', version: 1, afterUpload: { movedTo, error: null } })
      expect(await everything(folder)).toEqual(left)
      expect(await second.api.files()).toHaveLength(1)
    } finally {
      await second.stop()
      await data.remove()
    }
  }

  test('leaves it to the next one, which finishes it, and nothing of ours stays', async () => {
    // Side by side, since both wait for a lease to run out.
    await Promise.all([
      finishedByTheNext('after-set-aside', 'delete', []),
      finishedByTheNext('after-post-action', { move: 'done' }, ['done/a.csv'])
    ])
  })
})

describe('a process that is killed with a file set aside', () => {
  test('leaves it to the next one, which gives the file its name back where the policy keeps files by now', async () => {
    const data = await temporaryFolder('data')
    const proxy = await startProxy({ target: { host: '127.0.0.1', port: sshd.port } })
    const folder = join(root, 'kept-by-now')
    await mkdir(folder)
    await writeFile(join(folder, 'a.csv'), 'content')
    const { username, privateKey } = sshd
    const fields = { host: '127.0.0.1', port: proxy.port, username, privateKey, roots: [folder], interval: 1 }
    const running: Longshore[] = []
    const start = async (env: Record<string, string>) => {
      const started = await startLongshore({ env: { DATA_DIR: data.path, ...env } })
      running.push(started)
      return started
    }
    try {
      const first = await start({ FAILPOINTS: 'after-set-aside=crash' })
      const policy = { settle: { checks: 1, seconds: 0 }, afterUpload: 'delete' }
      await first.api.post('/servers', { name: 'acme', ...fields, ...policy })
      await first.processes[0]!.exited
      expect(await everything(folder)).toEqual([expect.stringMatching(/^\.longshore-/)])

      // Nobody gets there before the operator has changed his mind.
      await proxy.refuse()
      const { api } = await start({})
      expect((await api.request('PATCH', '/servers/acme', { afterUpload: 'keep' })).status).toBe(200)
      await proxy.accept()
      const file = await until('the step to be over', async () => {
        const [one] = await api.files()
        return one?.afterUpload === null ? one : null
      })
      expect(await everything(folder)).toEqual(['a.csv'])
      expect(await api.post('/servers/acme/scan?wait=true')).toMatchObject({ listed: 1, new: 0, complete: true })
      expect(await api.files()).toEqual([expect.objectContaining({ id: file.id, status: 'notified', version: 1 })])
    } finally {
      for (const one of running) await one.stop()
      await proxy.close()
      await data.remove()
    }
  })
})

describe('a changed policy', () => {
  test('takes what it skipped, skips what it excludes, and takes it again', async () => {
    const acme = await partner('loosened', { maxSize: 4, emptyFiles: 'skip' })
    await acme.put('large', 'more than four')
    await acme.put('empty', '')
    await acme.put('small', 'four')
    await notified(acme, 'small')
    expect(await latest(acme, 'large')).toMatchObject({ status: 'skipped', reason: expect.stringContaining('maxSize') })
    expect(await latest(acme, 'empty')).toMatchObject({ status: 'skipped', reason: 'empty' })
    await acme.patch({ maxSize: null, emptyFiles: 'take' })
    await Promise.all([notified(acme, 'large'), notified(acme, 'empty')])
    expect(await acme.files()).toHaveLength(3)
  })

  test('stops a file that waits and is not wanted any more, until it is wanted again', async () => {
    const acme = await partner('excluded', { marker: { suffix: '.done' } })
    await acme.put('a.csv')
    await becomes(acme, 'a.csv', ({ status }) => status === 'settling', 'waiting')
    await acme.patch({ exclude: ['*.csv'] })
    await becomes(
      acme,
      'a.csv',
      ({ status, reason }) => status === 'skipped' && /matched by exclude/.test(reason),
      'skipped'
    )
    await acme.patch({ exclude: [], marker: null })
    await notified(acme, 'a.csv')
  })
})

describe('a cron expression', () => {
  test('says when a server is scanned; a bad one is refused with its field', async () => {
    const acme = await partner('cron', { interval: undefined, cron: '*/3 * * * * *', timezone: 'Europe/Berlin' })
    expect(await acme.get()).toMatchObject({ interval: null, cron: '*/3 * * * * *', timezone: 'Europe/Berlin' })
    await acme.put('a.csv')
    await notified(acme, 'a.csv')
    await acme.patch({ cron: '30 4 * * *' })
    const next = new Date((await acme.get()).nextScanAt)
    const clock = new Intl.DateTimeFormat('en-GB', { timeZone: 'Europe/Berlin', timeStyle: 'short' }).format(next)
    expect(clock).toBe('04:30')
    await acme.put('b.csv')
    await acme.scan()
    await notified(acme, 'b.csv')
    const fieldsOf = async (change: object) => {
      const { status, body } = await acme.patch(change)
      expect(status).toBe(422)
      return body.errors.map(({ field }: Json) => field)
    }
    expect(await fieldsOf({ cron: '61 * * * *' })).toEqual(['cron'])
    expect(await fieldsOf({ timezone: 'Mars/Base' })).toEqual(['timezone'])
    expect(await fieldsOf({ cron: '* * * * *', interval: 5 })).toEqual(['cron'])
    await acme.patch({ interval: 86_400 })
    expect(await acme.get()).toMatchObject({ interval: 86_400, cron: null, timezone: null })
    expect(await fieldsOf({ timezone: 'UTC' })).toEqual(['timezone'])
  })

  test('is not made up for after a pause', async () => {
    const acme = await partner('cron-pause', { interval: undefined, cron: '0 4 * * *' })
    await acme.put('a.csv')
    await acme.pause()
    await acme.resume()
    const { nextScanAt, lastScanAt } = await acme.get()
    expect(lastScanAt).toBeNull()
    expect(Date.parse(nextScanAt)).toBeGreaterThan(Date.now())
    expect(new Date(nextScanAt).getUTCHours()).toBe(4)
  })
})
