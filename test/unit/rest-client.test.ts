import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test } from '@jest/globals'
import { restClient } from '../support/rest.ts'

describe("the tests' client, at a service that is not there yet", () => {
  let stop: () => Promise<void>
  afterEach(() => stop())

  /** Answers so often with 503, and then with an empty document. */
  async function lateService(code: string, times: number, headers: Record<string, string> = { 'Retry-After': '5' }) {
    let asked = 0
    const server = createServer((_request, response) => {
      const isLate = ++asked <= times
      response.writeHead(isLate ? 503 : 200, { 'Content-Type': 'application/json', ...(isLate ? headers : {}) })
      response.end(JSON.stringify(isLate ? { code } : {}))
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    stop = async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    }
    const { port } = server.address() as AddressInfo
    return { client: restClient(() => `http://127.0.0.1:${port}`, 'key'), asked: () => asked }
  }

  test('comes back to read', async () => {
    const { client, asked } = await lateService('REQUEST_TIMEOUT', 2)
    expect(await client.get('/servers')).toEqual({})
    expect(asked()).toBe(3)
  })

  test('comes back to change something where nobody was there to do it', async () => {
    const { client, asked } = await lateService('SERVICE_NOT_AVAILABLE', 2)
    expect(await client.post('/servers', {})).toEqual({})
    expect(asked()).toBe(3)
  })

  test('changes nothing a second time where it may have been done', async () => {
    const { client, asked } = await lateService('REQUEST_TIMEOUT', 2)
    await expect(client.post('/servers', {})).rejects.toThrow('POST /servers answered 503')
    expect(asked()).toBe(1)
  })

  test('does not come back to whoever does not ask it to', async () => {
    const { client, asked } = await lateService('STORE_UNAVAILABLE', 2, {})
    await expect(client.get('/servers')).rejects.toThrow('GET /servers answered 503')
    expect(asked()).toBe(1)
  })
})
