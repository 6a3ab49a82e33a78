import { inspect } from 'node:util'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals'
import { Loggers, ServiceBroker } from 'moleculer'
import { loadConfig } from '../../config.ts'
import { brokerOptions } from '../../moleculer.config.ts'
import { apiPort } from '../../node.ts'
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
const server = { _id: 'partner-id', name: 'partner', edition: 1 }

describe('the REST gateway', () => {
  const logger = new Keeping()
  const calls: string[] = []
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
      LOG_LEVEL: 'trace'
    })
    broker = new ServiceBroker({ ...brokerOptions(config), logger })
    broker.createService({
      name: 'servers',
      actions: {
        resolve: () => server,
        ...called('create', { ...server, secrets: {}, slots: [] }),
        ...called('pause', server),
        ...called('remove', {})
      }
    })
    broker.createService({
      name: 'files',
      actions: { ...called('retryFailed', { retried: 7 }), ...called('notify', {}) }
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

  test('says that there is no such call, and which part of a path cannot be read', async () => {
    expect((await api.request('GET', '/nope')).body).toMatchObject({
      code: 'NOT_FOUND',
      detail: 'there is no such call'
    })
    expect((await api.request('GET', '/files/%zz')).body).toMatchObject({ status: 400, code: 'BAD_PATH' })
  })
})
