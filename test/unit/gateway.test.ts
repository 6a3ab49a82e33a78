import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals'
import { Loggers, ServiceBroker } from 'moleculer'
import { loadConfig } from '../../config.ts'
import { newSshKey } from '../../demo/ssh-key.ts'
import { IngestError } from '../../domain/errors.ts'
import type { ServerRecord } from '../../domain/server.ts'
import { brokerOptions } from '../../moleculer.config.ts'
import { apiPort } from '../../node.ts'
import { sealedSecrets } from '../../rest/server-secrets.ts'
import { apiService } from '../../services/api.service.ts'
import { temporaryFolder } from '../support/process.ts'
import { type RestClient, restClient } from '../support/rest.ts'

/** Keeps every line of every level. */
class Keeping extends Loggers.Base<object> {
  readonly lines: string[] = []

  override getLogHandler() {
    return (_level: string, args: unknown[]) => this.lines.push(inspect(args, { depth: 20 }))
  }
}

const key = 'gateway-canary-key'
const secrets = { password: 'gateway-canary-password', privateKey: 'gateway-canary-key-text' }
const keyOfSecrets = randomBytes(32).toString('base64')
const times = { createdAt: 0, updatedAt: 0 }
const scans = { nextScanAt: 0, lastScanAt: null, lastScan: null, scanLeaseUntil: 0, lastError: null }
const server = { _id: 'partner-id', name: 'partner', edition: 1, secrets: {}, slots: [], ...times, ...scans }
const file = { _id: 'file-id', mtime: 0, object: null, announcement: null, progress: null, error: null, ...times }

describe('the REST gateway', () => {
  const logger = new Keeping()
  const calls: string[] = []
  let saved: ServerRecord['secrets'] = {}
  let broker: ServiceBroker
  let api: RestClient
  let remove: () => Promise<void>

  const called = (name: string, answer: object) => ({
    [name]: () => {
      calls.push(name)
      return answer
    }
  })

  beforeAll(async () => {
    const folder = await temporaryFolder('gateway')
    remove = folder.remove
    const config = loadConfig({
      DATA_DIR: folder.path,
      API_PORT: '0',
      API_KEYS: `a:admin:${key}`,
      LOG_LEVEL: 'trace',
      ENCRYPTION_KEY: keyOfSecrets
    })
    broker = new ServiceBroker({ ...brokerOptions(config), logger })
    broker.createService({
      name: 'servers',
      actions: {
        resolve: ({ params }: { params: { ref: string } }) => {
          if (params.ref === 'partner') return { ...server, secrets: saved }
          throw new IngestError('NOT_FOUND', `there is no server ${params.ref}`)
        },
        stats: () => ({ total: 1 }),
        ...called('create', { ...server, secrets: {}, slots: [] }),
        ...called('update', server),
        ...called('pause', server),
        ...called('remove', {})
      }
    })
    broker.createService({
      name: 'files',
      actions: {
        ...called('retryFailed', { retried: 7 }),
        ...called('notify', {}),
        stats: ({ params }: { params: { serverId?: string } }) => ({ of: params.serverId }),
        list: ({ params }: { params: { serverId?: string } }) => {
          const items = params.serverId === 'removed-id' ? [file] : []
          return { items, nextCursor: null }
        }
      }
    })
    broker.createService({ name: 'scanner', actions: { ...called('scan', { started: true }), ...called('test', {}) } })
    broker.createService(apiService(config))
    await broker.start()
    api = restClient(() => `http://127.0.0.1:${apiPort(broker)}`, key)
  })
  afterAll(async () => {
    await broker?.stop()
    await remove?.()
  })
  beforeEach(() => {
    calls.length = 0
  })

  test('logs no credentials of a request at any level', async () => {
    const body = { name: 'partner', host: '127.0.0.1', username: 'u', password: secrets.password }
    await api.request('POST', '/servers', body)
    await api.request('POST', '/servers/test', { ...body, password: undefined, privateKey: secrets.privateKey })
    await api.request('PATCH', '/servers/partner', `{"password": ${secrets.password}}`)
    expect(calls).toEqual(expect.arrayContaining(['create']))
    const log = logger.lines.join('\n')
    expect(log).toContain('/api/v1/servers')
    for (const canary of [...Object.values(secrets), key]) expect(log).not.toContain(canary)
  })

  describe('of a server whose private key', () => {
    const least = { name: 'partner', host: '127.0.0.1', username: 'u' }
    const passphrase = 'gateway-canary-passphrase'
    const { private: encrypted } = newSshKey({ passphrase, cipher: 'aes256-ctr', rounds: 4 })
    const asked = async (method: string, path: string, body: object) => {
      const { status, body: answer } = await api.request(method, path, body)
      expect(JSON.stringify(answer)).not.toMatch(/canary|BEGIN/)
      return [status, answer.errors?.map(({ field }: { field: string }) => field)]
    }

    test.each([
      ['is no key', { privateKey: secrets.privateKey }, 'privateKey'],
      ['is encrypted', { privateKey: encrypted }, 'passphrase'],
      ['has another passphrase', { privateKey: encrypted, passphrase: 'gateway-canary-wrong' }, 'passphrase']
    ])('%s is refused before anything is saved, and the field named', async (_what, given, field) => {
      expect(await asked('POST', '/servers', { ...least, ...given })).toEqual([422, [field]])
      expect(await asked('POST', '/servers/test', { ...least, name: undefined, ...given })).toEqual([422, [field]])
      expect(await asked('PATCH', '/servers/partner', given)).toEqual([422, [field]])
      expect(calls).toEqual([])
    })

    test('can be opened is taken', async () => {
      expect(await asked('POST', '/servers', { ...least, privateKey: encrypted, passphrase })).toEqual([201, undefined])
      expect(calls).toEqual(['create'])
    })

    test('is saved already is held against a passphrase that is given later', async () => {
      saved = sealedSecrets(Buffer.from(keyOfSecrets, 'base64'), server._id, { privateKey: encrypted, passphrase })
      expect(await asked('PATCH', '/servers/partner', { passphrase: 'gateway-canary-wrong' })).toEqual([
        422,
        ['passphrase']
      ])
      expect(await asked('PATCH', '/servers/partner', { passphrase })).toEqual([200, undefined])
      saved = {}
      expect(await asked('PATCH', '/servers/partner', { passphrase })).toEqual([422, ['passphrase']])
      expect(await asked('PATCH', '/servers/partner', { password: 'x', passphrase })).toEqual([422, ['passphrase']])
      expect(calls).toEqual(['update'])
    })
  })

  test('quotes nothing of a body that is not JSON', async () => {
    for (const text of [`{"password": ${secrets.password}}`, `{"password": "${secrets.password}`, 'canary']) {
      const { status, body } = await api.request('POST', '/servers', text)
      expect([status, body.code]).toEqual([400, 'BAD_JSON'])
      expect(body.detail).toMatch(/^the body is not JSON: \w/)
      expect(JSON.stringify(body)).not.toContain('canary')
    }
  })

  test.each(['[]', 'null', '"text"', '5', '["serverId"]'])('refuses the body %s: it is no object', async (text) => {
    const { status, body } = await api.request('POST', '/files/retry', text)
    expect([status, body.errors]).toEqual([422, [{ field: 'body', message: 'must be a JSON object' }]])
    expect(calls).toEqual([])
  })

  test.each([
    ['POST', '/servers/partner/scan', { dryRun: true }],
    ['POST', '/servers/partner/scan?dryRun=true', { limit: 5 }],
    ['POST', '/servers/partner/pause', { until: 'tomorrow' }],
    ['POST', '/servers/partner/test', { password: 'x' }],
    ['POST', '/files/some-id/notify', { to: 'x' }],
    ['DELETE', '/servers/partner', { purge: true }]
  ])('%s %s does nothing when %j is in its body', async (method, path, given) => {
    const { status, body } = await api.request(method, path, given)
    expect([status, body.errors?.[0].field]).toEqual([422, Object.keys(given)[0]])
    expect(calls).toEqual([])
  })

  test.each([undefined, '', {}])('takes the body %j where none is needed', async (body) => {
    expect((await api.request('POST', '/servers/partner/scan', body)).status).toBe(202)
    expect(calls).toEqual(['scan'])
  })

  test('says what is wrong with a body that it cannot read', async () => {
    const post = async (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string>) => {
      const url = `http://127.0.0.1:${apiPort(broker)}/api/v1/files/retry`
      const answer = await fetch(url, { method: 'POST', body, headers: { authorization: `Bearer ${key}`, ...headers } })
      const { status, code, detail } = (await answer.json()) as Record<string, unknown>
      return { status, code, detail }
    }
    expect(await post('x'.repeat(1024 * 1024 + 1), {})).toMatchObject({ status: 413, code: 'BODY_TOO_LARGE' })
    expect(await post('{}', { 'content-encoding': 'gzip' })).toMatchObject({ status: 400, code: 'BAD_ENCODING' })
    expect(await post('{}', { 'content-encoding': 'rot13' })).toMatchObject({ status: 415, code: 'BAD_ENCODING' })
    expect(calls).toEqual([])
    expect(await post(new Uint8Array(gzipSync('{}')), { 'content-encoding': 'gzip' })).toEqual({})
    expect(calls).toEqual(['retryFailed'])
  })

  test.each([
    ['PUT', '/servers', 'GET, POST, HEAD, OPTIONS'],
    ['PUT', '/servers/partner', 'GET, PATCH, DELETE, HEAD, OPTIONS'],
    ['DELETE', '/files', 'GET, HEAD, OPTIONS'],
    ['HEAD', '/servers/partner/pause', 'POST, OPTIONS'],
    ['PATCH', '/files/some-id/content/', 'GET, HEAD, OPTIONS'],
    ['POST', '/health/ready?x=1', 'GET, HEAD, OPTIONS']
  ])('refuses %s %s, and names the methods that there are', async (method, path, allow) => {
    const { status, headers, body } = await api.request(method, path, method === 'PUT' ? {} : undefined)
    expect([status, headers.get('allow')]).toEqual([405, allow])
    expect(headers.get('content-type')).toContain('application/problem+json')
    if (method !== 'HEAD') expect(body).toMatchObject({ status: 405, code: 'METHOD_NOT_ALLOWED' })
    expect(calls).toEqual([])
  })

  test('answers OPTIONS with the methods of a path, and makes no call', async () => {
    for (const asked of [undefined, 'GET', 'DELETE']) {
      const answer = await fetch(`http://127.0.0.1:${apiPort(broker)}/api/v1/servers/partner`, {
        method: 'OPTIONS',
        headers: { authorization: `Bearer ${key}`, ...(asked ? { 'access-control-request-method': asked } : {}) }
      })
      expect([answer.status, answer.headers.get('allow')]).toEqual([204, 'GET, PATCH, DELETE, HEAD, OPTIONS'])
      expect(answer.headers.get('access-control-allow-origin')).toBeNull()
      await answer.body?.cancel()
    }
    expect((await api.request('OPTIONS', '/nope')).status).toBe(404)
    expect(calls).toEqual([])
  })

  test('answers HEAD as GET, without the body and with the same need of a key', async () => {
    const [got, head] = [await api.request('GET', '/servers/partner'), await api.request('HEAD', '/servers/partner')]
    expect([head.status, head.body]).toEqual([200, ''])
    for (const name of ['etag', 'content-type']) expect(head.headers.get(name)).toBe(got.headers.get(name))
    expect((await api.request('HEAD', '/servers/partner', undefined, { key: null })).status).toBe(401)
    expect((await api.request('HEAD', '/nope')).status).toBe(404)
  })

  test.each([
    ['GET', '/files?serverId=', undefined],
    ['GET', '/stats?serverId=', undefined],
    ['GET', '/stats/timeline?serverId=', undefined],
    ['POST', '/files/retry', 'serverId']
  ])('%s %s names a server that there is not', async (method, path, field) => {
    const { status, body } = await api.request(method, field ? path : `${path}absent`, field && { [field]: 'absent' })
    expect([status, body.code]).toEqual([404, 'NOT_FOUND'])
    expect(body.errors).toEqual([{ field: 'serverId', message: 'there is no server absent' }])
    expect(calls).toEqual([])
  })

  test('finds the files of a removed server by its id', async () => {
    expect((await api.request('GET', '/files?serverId=removed-id')).body.items).toHaveLength(1)
    expect((await api.request('GET', '/stats?serverId=removed-id')).body).toMatchObject({ of: 'removed-id' })
    expect((await api.request('GET', '/stats?serverId=partner')).body).toMatchObject({ of: server._id })
  })

  test('says that there is no such call, and which part of a path cannot be read', async () => {
    expect((await api.request('GET', '/nope')).body).toMatchObject({
      code: 'NOT_FOUND',
      detail: 'there is no such call'
    })
    expect((await api.request('GET', '/files/%zz')).body).toMatchObject({ status: 400, code: 'BAD_PATH' })
  })
})
