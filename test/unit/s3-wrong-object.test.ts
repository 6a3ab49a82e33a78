import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, test } from '@jest/globals'
import { s3Store } from '../../drivers/store/s3.ts'

describe('an S3 store that stores other bytes than it was sent', () => {
  test('and says so by its checksum is told to remove them', async () => {
    const asked: string[] = []
    const server = createServer((request, response) => {
      asked.push(`${request.method} ${request.url}`)
      request.resume()
      request.on('end', () => response.writeHead(200, { etag: '"e"', 'x-amz-checksum-crc32': 'AAAAAA==' }).end())
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const keys = { accessKey: 'a', secretKey: 's' }
    const store = s3Store({ endpoint: `http://127.0.0.1:${port}`, bucket: 'files', ...keys })
    const wanted = { metadata: {}, crc32: 'cbf43926', condition: { ifNoneMatch: '*' } } as const
    await expect(store.put('a/b', Buffer.from('123456789'), wanted)).rejects.toMatchObject({
      type: 'CHECKSUM_MISMATCH'
    })
    expect(asked).toEqual(['PUT /files/a/b', 'DELETE /files/a/b'])
    await store.close()
    server.close()
  })
})
