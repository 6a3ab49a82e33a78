import { describe, expect, test } from '@jest/globals'
import { refusedByHand } from '../../domain/by-hand.ts'
import type { FileRecord, FileStatus } from '../../domain/file-record.ts'

const announcement = {
  status: 'sent',
  messageId: 'm',
  attempts: 1,
  dueAt: 0,
  epoch: 1,
  leaseUntil: 0,
  at: 0,
  error: null
}
const fileThatIs = (status: FileStatus, more: object = {}) =>
  ({ _id: 'f', status, epoch: 1, history: [], upload: null, settle: null, ...more }) as unknown as FileRecord
const stored = { announcement, object: {} }

describe('refusedByHand', () => {
  test.each([
    ['notified', stored, 'be retried', '; /refetch copies it again, /notify announces it again'],
    ['uploaded', stored, 'be retried', '; /refetch copies it again, /notify announces it again'],
    ['notified', stored, 'be cancelled', '; /refetch copies it again, /notify announces it again'],
    ['notified', { ...stored, released: true }, 'be retried', '; /notify announces it again'],
    ['failed', {}, 'be fetched again', '; /retry tries it again'],
    ['pending', {}, 'be announced', '; /retry tries it again, /cancel ends it'],
    ['downloading', {}, 'be retried', '; /cancel ends it'],
    ['skipped', {}, 'be retried', '']
  ] as const)('says of a file that is %s %j what else can be done when it cannot %s', (status, more, what, others) => {
    expect(refusedByHand(fileThatIs(status, more), what, 0)).toBe(`a file that is ${status} cannot ${what}${others}`)
  })
})
