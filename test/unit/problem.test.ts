import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, test } from '@jest/globals'
import { Errors } from 'moleculer'
import { IngestError } from '../../domain/errors.ts'
import { problemOf, sendProblem } from '../../rest/problem.ts'

describe('problemOf', () => {
  test('an error of ours keeps its status, its message and its fields', () => {
    const errors = [{ field: 'port', message: 'must be a number' }]
    expect(problemOf(new IngestError('INVALID', 'port: must be a number', { data: { errors } }))).toEqual({
      type: 'urn:longshore:problem:invalid',
      title: 'Not valid',
      status: 422,
      detail: 'port: must be a number',
      code: 'INVALID',
      errors
    })
    expect(problemOf(new IngestError('STALE_REVISION', 'changed'))).toMatchObject({
      status: 412,
      code: 'STALE_REVISION'
    })
  })

  test('a refusal by Moleculer names its fields too', () => {
    const refused = new Errors.ValidationError('bad', 'VALIDATION', [{ field: 'limit', message: 'too large' }] as never)
    expect(problemOf(refused)).toMatchObject({
      status: 422,
      code: 'INVALID',
      errors: [{ field: 'limit', message: 'too large' }]
    })
    const one = new IngestError('INVALID', 'cursor: no', { data: { field: 'cursor' } })
    expect(problemOf(one).errors).toEqual([{ field: 'cursor', message: 'no' }])
  })

  test('what is away for a while is 503, whatever its own code', () => {
    for (const error of [
      new Errors.ServiceNotFoundError({ action: 'files.list' }),
      new Errors.RequestTimeoutError({ action: 'files.list', nodeID: 'n' }),
      new IngestError('DATABASE_UNAVAILABLE', 'away')
    ]) {
      expect(problemOf(error)).toMatchObject({
        status: 503,
        detail: expect.stringMatching(/[^.]; try again in a moment$/)
      })
    }
  })

  test('an unexpected error keeps what is inside to the log', () => {
    for (const error of [
      new TypeError('canary'),
      new IngestError('INTERNAL', 'canary'),
      { code: 'ECANARY', message: 'canary' }
    ]) {
      const problem = problemOf(error)
      expect(problem.status).toBe(500)
      expect(JSON.stringify(problem)).not.toContain('canary')
    }
  })

  test.each([null, undefined, 'text', 5, {}, []])('%j, thrown, is a problem too', (thrown) => {
    expect(problemOf(thrown as never)).toMatchObject({ status: 500, title: 'Internal error', code: expect.any(String) })
  })

  test('a client error without a title of its own is a bad request', () => {
    expect(problemOf({ code: 418, message: 'teapot' })).toMatchObject({ status: 400, title: 'Bad request' })
  })
})

describe('sendProblem', () => {
  test('sends the problem with its content type, and says when to come again', async () => {
    const server = createServer((request, response) =>
      sendProblem(response, { code: Number(request.url!.slice(1)), message: 'why' })
    ).listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    const get = (status: number) => fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/${status}`)
    try {
      const missing = await get(404)
      expect(missing.status).toBe(404)
      expect(missing.headers.get('content-type')).toBe('application/problem+json; charset=utf-8')
      expect(await missing.json()).toMatchObject({ status: 404, title: 'Not found', detail: 'why' })
      expect((await get(401)).headers.get('www-authenticate')).toBe('Bearer')
      expect((await get(429)).headers.get('retry-after')).toBe('5')
      expect((await get(503)).headers.get('retry-after')).toBe('5')
    } finally {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
  })
})
