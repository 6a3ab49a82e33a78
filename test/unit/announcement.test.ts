import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { announcementOf, messageIdOf } from '../../domain/announcement.ts'
import type { FileRecord } from '../../domain/file-record.ts'

const file = {
  _id: 'f1',
  serverId: 's1',
  serverName: 'acme',
  path: '/in/a\n.csv',
  filename: 'a\n.csv',
  version: 2,
  size: 99,
  mtime: 1_700_000_000_000,
  object: {
    bucket: 'b',
    key: 'acme/in/a%0A.csv@2',
    url: 'http://s3/b/k',
    etag: 'e',
    size: 10,
    checksum: { algorithm: 'crc32', value: 'cbf43926' },
    storedAt: 1_700_000_001_000
  }
} as unknown as FileRecord

describe('messageIdOf', () => {
  test('is a UUID of version 8, the same each time, and another for another file', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.string(), { minLength: 2 }), (ids) => {
        const made = ids.map(messageIdOf)
        expect(made).toEqual(ids.map(messageIdOf))
        expect(new Set(made).size).toBe(ids.length)
        for (const id of made)
          expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
      })
    )
  })
})

describe('announcementOf', () => {
  test('is the CloudEvent of the contract, and nothing more', () => {
    const { messageId, body } = announcementOf(file)
    expect(messageId).toBe(messageIdOf('f1'))
    expect(JSON.parse(JSON.stringify(body))).toEqual({
      specversion: '1.0',
      id: messageId,
      type: 'longshore.file.uploaded',
      source: '/servers/s1',
      subject: '/in/a\n.csv',
      time: '2023-11-14T22:13:21.000Z',
      datacontenttype: 'application/json',
      data: {
        fileId: 'f1',
        serverId: 's1',
        serverName: 'acme',
        path: '/in/a\n.csv',
        filename: 'a\n.csv',
        version: 2,
        size: 10,
        mtime: '2023-11-14T22:13:20.000Z',
        bucket: 'b',
        key: 'acme/in/a%0A.csv@2',
        url: 'http://s3/b/k',
        etag: 'e',
        checksum: { algorithm: 'crc32', value: 'cbf43926' },
        uploadedAt: '2023-11-14T22:13:21.000Z'
      }
    })
  })

  test('is the same on every resend', () => {
    expect(announcementOf({ ...file, status: 'notified', updatedAt: 5 })).toEqual(announcementOf(file))
  })
})
