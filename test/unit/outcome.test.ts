import { describe, expect, test } from '@jest/globals'
import { type ErrorType, IngestError } from '../../domain/errors.ts'
import { outcomeOf } from '../../domain/outcome.ts'

const of = (type: ErrorType, isExcused = false) => outcomeOf(new IngestError(type, 'why'), 7, isExcused)

describe('outcomeOf', () => {
  test('a worker that lost its lease has nothing to say', () => {
    expect(of('LEASE_LOST')).toBeNull()
  })

  test('a file that is gone vanished', () => {
    expect(of('SFTP_NO_SUCH_PATH')).toEqual({ kind: 'vanished' })
  })

  test.each([
    'SFTP_UNREACHABLE',
    'SFTP_TOO_MANY_SESSIONS',
    'SFTP_AUTH_FAILED',
    'SFTP_HOST_KEY_MISMATCH',
    'SECRET_UNREADABLE',
    'STORE_UNAVAILABLE',
    'STORE_FULL',
    'DATABASE_UNAVAILABLE',
    'CANCELLED'
  ] as const)('%s is not the fault of the file: it waits', (type) => {
    expect(of(type)).toMatchObject({ kind: 'deferred', error: { type, message: 'why', at: 7 } })
  })

  test.each(['STALLED', 'CHECKSUM_MISMATCH', 'SFTP_PERMISSION_DENIED', 'INTERNAL'] as const)(
    '%s uses an attempt up, unless a part was finished',
    (type) => {
      expect(of(type)).toMatchObject({ kind: 'retry', error: { type } })
      expect(of(type, true)).toMatchObject({ kind: 'deferred' })
    }
  )

  test('a lost connection is counted for itself, unless a part was finished', () => {
    expect(of('SFTP_CONNECTION_LOST')).toMatchObject({ kind: 'lost', error: { type: 'SFTP_CONNECTION_LOST' } })
    expect(of('SFTP_CONNECTION_LOST', true)).toMatchObject({ kind: 'deferred' })
  })

  test('a file that no store can hold is rejected', () => {
    expect(of('FILE_TOO_LARGE', true)).toMatchObject({ kind: 'rejected' })
  })

  test('whatever is thrown becomes an outcome, and an unknown error is tried again', () => {
    for (const thrown of [new TypeError('odd'), 'text', undefined, null, { type: 'NO_SUCH_TYPE' }]) {
      expect(outcomeOf(thrown, 7)).toMatchObject({ kind: 'retry', error: { type: 'INTERNAL' } })
    }
  })
})
