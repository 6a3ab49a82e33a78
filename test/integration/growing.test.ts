import { createHash } from 'node:crypto'
import { appendFile, mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Longshore, startLongshore, waitFor } from '../support/longshore.ts'
import { freePort } from '../support/ports.ts'
import { temporaryFolder } from '../support/process.ts'
import { type ScriptedSftp, startScriptedSftp } from '../support/scripted-sftp.ts'

const KiB = 1024

let longshore: Longshore
let folder: Awaited<ReturnType<typeof temporaryFolder>>
let sftp: ScriptedSftp

beforeAll(async () => {
  folder = await temporaryFolder('growing')
  await Promise.all(['good', 'growing', 'locked'].map((name) => mkdir(join(folder.path, name))))
  sftp = await startScriptedSftp(folder.path, (path) => path === '/locked/secret.txt')
  longshore = await startLongshore({})
})
afterAll(async () => {
  await longshore?.stop()
  await sftp?.stop()
  await folder?.remove()
})

const serverOf = (name: string, more: object = {}) => {
  const { host, port, username, password } = sftp
  const address = { host, port, username, password, roots: ['/good'] }
  return { name, ...address, interval: 1, settle: { checks: 1, seconds: 0 }, ...more }
}

const fileAt = async (server: string, path: string) => {
  const { items } = await longshore.api.get(`/files?serverId=${server}&path=${encodeURIComponent(path)}`)
  return items.find((file: { path: string }) => file.path === path)
}

const becomes = (server: string, path: string, status: string) =>
  waitFor(
    async () => {
      const file = await fileAt(server, path)
      return file?.status === status ? file : null
    },
    { what: `${path} of ${server} to be ${status}`, explain: longshore.output }
  )

describe('a growing file', () => {
  test('is not taken before it has been still for as long as the policy asks, and then whole', async () => {
    const path = join(folder.path, 'growing/log.csv')
    await writeFile(path, 'line 0\n')
    const policy = { roots: ['/growing'], settle: { checks: 3, seconds: 3 } }
    await longshore.api.post('/servers', serverOf('growing', policy))
    await waitFor(() => fileAt('growing', '/growing/log.csv'), { what: 'the file to be seen' })
    for (let line = 1; line <= 8; line++) {
      // The partner's own pace, not a wait for anything of ours.
      await delay(1000)
      await appendFile(path, `line ${line}\n`)
      expect(await fileAt('growing', '/growing/log.csv')).toMatchObject({ status: 'settling', object: null })
    }
    const stillSince = (await stat(path)).mtimeMs
    const file = await becomes('growing', '/growing/log.csv', 'notified')
    const content = await readFile(path)
    expect(file.size).toBe(content.length)
    const { history } = await longshore.api.get(`/files/${file.id}`)
    const taken = history.find(({ status }: { status: string }) => status === 'pending')
    expect(Date.parse(taken.at) - stillSince).toBeGreaterThanOrEqual(2_900)
    // The database and the objects are files here: what was announced is read where it lies.
    const announced = (await readFile(join(longshore.dataDir, 'notifications.ndjson'), 'utf8')).trim().split('\n')
    const events = announced.map((line) => JSON.parse(line)).filter(({ data }) => data.fileId === file.id)
    expect(events).toHaveLength(1)
    const stored = await readFile(new URL(events[0].data.url))
    expect(createHash('sha256').update(stored).digest('hex')).toBe(createHash('sha256').update(content).digest('hex'))
  })
})

describe('a server that cannot be used', () => {
  let drops = 0

  beforeAll(async () => {
    await longshore.api.post('/servers', serverOf('good'))
  })

  /** Everything else goes on: a file dropped now is stored and announced. */
  const expectGoodServerWorks = async () => {
    const path = `/good/drop-${++drops}`
    await writeFile(join(folder.path, path), path)
    await becomes('good', path, 'notified')
    expect((await longshore.api.get('/servers/good')).lastError).toBeNull()
  }

  const failing = async (fields: object, name: string, type: string) => {
    await longshore.api.post('/servers', serverOf(name, fields))
    return waitFor(
      async () => {
        const server = await longshore.api.get(`/servers/${name}`)
        return server.lastError?.type === type ? server : null
      },
      {
        what: `${name} to fail with ${type}`,
        explain: async () => JSON.stringify((await longshore.api.get(`/servers/${name}`)).lastError)
      }
    )
  }

  test('is stopped after a wrong password, which it saw at most three times', async () => {
    const strict = await startScriptedSftp(folder.path)
    try {
      const fields = { port: strict.port, password: 'not-the-password' }
      const server = await failing(fields, 'wrong-password', 'SFTP_AUTH_FAILED')
      expect(server.state).toBe('stopped')
      // Twice its interval and more: a server that is not stopped would be tried again meanwhile.
      await expectGoodServerWorks()
      await expectGoodServerWorks()
      expect(strict.logins).toBeGreaterThanOrEqual(1)
      expect(strict.logins).toBeLessThanOrEqual(3)
      const alerts = longshore.output().match(/the server wrong-password was stopped until an operator mends it/g)
      expect(alerts).toHaveLength(1)
      expect(longshore.output()).not.toContain('not-the-password')
    } finally {
      await strict.stop()
    }
  })

  test('is stopped after its password was changed under its copies, at the third login at most', async () => {
    const strict = await startScriptedSftp(folder.path)
    try {
      await mkdir(join(folder.path, 'changed'))
      const put = (from: number) =>
        Promise.all(
          Array.from({ length: 40 }, (_, index) =>
            writeFile(join(folder.path, `changed/${from + index}`), 'x'.repeat(KiB))
          )
        )
      await put(0)
      const fields = { port: strict.port, roots: ['/changed'], maxConnections: 4 }
      await longshore.api.post('/servers', serverOf('changed-password', fields))
      await becomes('changed-password', '/changed/0', 'notified')
      await put(100)
      const { logins } = strict
      strict.changePassword('another-one')
      await put(200)
      const server = await waitFor(
        async () => {
          const seen = await longshore.api.get('/servers/changed-password')
          return seen.state === 'stopped' ? seen : null
        },
        { what: 'the server to be stopped', explain: longshore.output }
      )
      expect(server.lastError.type).toBe('SFTP_AUTH_FAILED')
      await expectGoodServerWorks()
      await expectGoodServerWorks()
      expect(strict.logins - logins).toBeGreaterThanOrEqual(1)
      expect(strict.logins - logins).toBeLessThanOrEqual(3)
      expect(longshore.output().match(/the server changed-password was stopped until an operator/g)).toHaveLength(1)
    } finally {
      await strict.stop()
    }
  })

  test('is stopped when its host key is not the pinned one, before it sees a password', async () => {
    const strict = await startScriptedSftp(folder.path)
    try {
      const fields = { port: strict.port, hostKey: `SHA256:${'A'.repeat(43)}` }
      const server = await failing(fields, 'wrong-host-key', 'SFTP_HOST_KEY_MISMATCH')
      expect(server.state).toBe('stopped')
      await expectGoodServerWorks()
      const { host, port, username, password } = strict
      const unsaved = { host, port, username, password, hostKey: `SHA256:${'A'.repeat(43)}` }
      for (const answer of [
        await longshore.api.post('/servers/test', unsaved),
        await longshore.api.post(`/servers/${server.id}/test`)
      ]) {
        // The key that was shown, to be compared with what the partner says.
        expect(answer).toMatchObject({ ok: false, hostKey: expect.stringMatching(/^SHA256:.{43}$/) })
        expect(answer.error.type).toBe('SFTP_HOST_KEY_MISMATCH')
        expect(answer.error.message).toContain(`is ${answer.hostKey}, not the pinned ${unsaved.hostKey}`)
      }
      expect(strict.logins).toBe(0)
    } finally {
      await strict.stop()
    }
  })

  test('says that its host is unknown', async () => {
    const server = await failing({ host: 'no-such-host.invalid' }, 'unknown-host', 'SFTP_UNREACHABLE')
    expect(server.lastError.message).toContain('no-such-host.invalid')
    expect(server.state).toBe('active')
    await expectGoodServerWorks()
  })

  test('says that nothing listens on its port', async () => {
    const port = await freePort()
    const server = await failing({ port }, 'no-listener', 'SFTP_UNREACHABLE')
    expect(server.lastError.message).toContain(String(port))
    expect(server.state).toBe('active')
    await expectGoodServerWorks()
  })

  test('is refused where its address is not allowed', async () => {
    const server = await failing({ host: '169.254.169.254' }, 'metadata-address', 'ADDRESS_DENIED')
    expect(server.state).toBe('stopped')
    await expectGoodServerWorks()
  })

  test('says which root is missing, and the other roots are still listed', async () => {
    await mkdir(join(folder.path, 'beside'))
    await writeFile(join(folder.path, 'beside/file'), 'hello')
    const server = await failing({ roots: ['/beside', '/absent'] }, 'missing-root', 'ROOT_UNREADABLE')
    expect(server.lastError.message).toContain('/absent')
    await becomes('missing-root', '/beside/file', 'notified')
    await expectGoodServerWorks()
  })

  test('says that its only root is missing', async () => {
    const server = await failing({ roots: ['/absent'] }, 'only-missing-root', 'ROOT_UNREADABLE')
    expect(server.lastError.message).toContain('/absent')
    expect(server.state).toBe('active')
    await expectGoodServerWorks()
  })

  test('keeps the error with a file that it does not open, and gives the others', async () => {
    await writeFile(join(folder.path, 'locked/secret.txt'), 'nobody reads this')
    await writeFile(join(folder.path, 'locked/open.txt'), 'everybody reads this')
    await longshore.api.post('/servers', serverOf('locked', { roots: ['/locked'] }))
    await becomes('locked', '/locked/open.txt', 'notified')
    const file = await waitFor(
      async () => {
        const seen = await fileAt('locked', '/locked/secret.txt')
        return seen?.error && seen
      },
      { what: 'the refusal to be recorded' }
    )
    expect(file.error).toMatchObject({
      type: 'SFTP_PERMISSION_DENIED',
      message: expect.stringContaining('/locked/secret.txt')
    })
    expect(['pending', 'downloading', 'failed']).toContain(file.status)
    expect((await longshore.api.get('/servers/locked')).state).toBe('active')
    await expectGoodServerWorks()
  })
})

describe('the API', () => {
  const refusal = async (
    method: string,
    path: string,
    body: unknown,
    status: number,
    options?: { key?: string | null }
  ) => {
    const answer = await longshore.api.request(method, path, body, options)
    expect(answer).toMatchObject({ status, body: { status, title: expect.any(String), type: expect.any(String) } })
    expect(answer.headers.get('content-type')).toContain('application/problem+json')
    return answer.body
  }
  const fieldsOf = (problem: { errors: { field: string }[] }) => problem.errors.map(({ field }) => field)

  test('refuses a body that is not JSON', async () => {
    await refusal('POST', '/servers', '{"name": ', 400)
  })

  test.each([
    ['an unknown field', { colour: 'red' }, 'colour'],
    ['an unknown field below', { settle: { checks: 1, seconds: 0, minutes: 1 } }, 'settle.minutes'],
    ['a number in quotes', { port: '22' }, 'port'],
    ['a port that there is not', { port: 70_000 }, 'port'],
    ['a name with a space', { name: 'two words' }, 'name'],
    ['a relative root', { roots: ['outgoing'] }, 'roots.0'],
    ['roots inside each other', { roots: ['/a', '/a/b'] }, 'roots'],
    ['a host key of another form', { hostKey: 'MD5:00' }, 'hostKey'],
    ['null for a text', { username: null }, 'username'],
    ['a condition of the database for a text', { username: { $ne: null } }, 'username'],
    ['a condition among the fields', { $where: 'true' }, '$where']
  ])('refuses %s and names the field', async (_what, fields, field) => {
    const problem = await refusal('POST', '/servers', serverOf('refused', fields), 422)
    expect(fieldsOf(problem)).toEqual([field])
  })

  test('names every field that is missing', async () => {
    const problem = await refusal('POST', '/servers', { name: 'bare' }, 422)
    expect(fieldsOf(problem)).toEqual(expect.arrayContaining(['host', 'username']))
    expect(fieldsOf(await refusal('POST', '/servers', { ...serverOf('bare'), password: undefined }, 422))).toEqual([
      'password'
    ])
  })

  test('refuses a body that is no object', async () => {
    for (const body of ['[]', '"text"', 'null', '7']) await refusal('POST', '/servers', body, 422)
  })

  test('refuses a second server of one name', async () => {
    await longshore.api.post('/servers', serverOf('twin', { enabled: false }))
    const problem = await refusal('POST', '/servers', serverOf('twin'), 409)
    expect(fieldsOf(problem)).toEqual(['name'])
    await longshore.api.post('/servers', serverOf('twin-2', { enabled: false }))
    await refusal('PATCH', '/servers/twin-2', { name: 'twin' }, 409)
  })

  test('refuses callers without a key and with a wrong one', async () => {
    await refusal('GET', '/servers', undefined, 401, { key: null })
    await refusal('GET', '/servers', undefined, 401, { key: 'guessed' })
    await refusal('POST', '/servers', serverOf('nobody'), 401, { key: null })
  })

  test('lets each role do what it may, and no more', async () => {
    const { viewer, operator } = longshore.keys
    expect(await longshore.api.request('GET', '/servers', undefined, { key: viewer })).toMatchObject({ status: 200 })
    await refusal('POST', '/servers/good/scan', undefined, 403, { key: viewer })
    expect(await longshore.api.request('POST', '/servers/good/scan', undefined, { key: operator })).toMatchObject({
      status: 202
    })
    await refusal('POST', '/servers', serverOf('nobody'), 403, { key: operator })
    await refusal('DELETE', '/servers/good', undefined, 403, { key: operator })
  })

  test('knows nothing of ids and addresses that there are not', async () => {
    for (const path of ['/servers/absent', '/files/absent', '/absent']) await refusal('GET', path, undefined, 404)
    await refusal('POST', '/servers/absent/scan', undefined, 404)
    await refusal('DELETE', '/servers/absent', undefined, 404)
    await refusal('POST', '/files/absent/retry', undefined, 404)
  })

  test('refuses parameters that it does not have, and values that they do not take', async () => {
    for (const query of ['colour=red', 'limit=0', 'limit=1001', 'limit=x', 'status=done', 'since=yesterday']) {
      const problem = await refusal('GET', `/files?${query}`, undefined, 422)
      expect(fieldsOf(problem)).toEqual([query.split('=')[0]])
    }
    await refusal('GET', '/files?cursor=nonsense', undefined, 422)
    // What a query parser would make a condition of.
    for (const query of ['status[$ne]=failed', 'serverId[$gt]=', 'path[$regex]=.*'])
      await refusal('GET', `/files?${query}`, undefined, 422)
    for (const filter of [{ status: { $ne: 'failed' } }, { serverId: { $gt: '' } }, { $where: 'sleep(1000)' }])
      await refusal('POST', '/files/retry', filter, 422)
  })

  test('answers a change with an old ETag with 412', async () => {
    const { headers } = await longshore.api.request('GET', '/servers/twin')
    expect(headers.get('etag')).toMatch(/^"\d+"$/)
    await longshore.api.request('PATCH', '/servers/twin', { interval: 90 })
    const response = await fetch(`http://127.0.0.1:${longshore.port}/api/v1/servers/twin`, {
      method: 'PATCH',
      headers: {
        authorization: `Bearer ${longshore.keys.admin}`,
        'content-type': 'application/json',
        'if-match': headers.get('etag')!
      },
      body: JSON.stringify({ interval: 120 })
    })
    expect(response.status).toBe(412)
    await response.body?.cancel()
  })

  test('never answers a secret', async () => {
    const answers = JSON.stringify([await longshore.api.get('/servers'), await longshore.api.get('/servers/good')])
    expect(answers).not.toContain(sftp.password)
    expect(longshore.output()).not.toContain(sftp.password)
  })
})
