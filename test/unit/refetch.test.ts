import { describe, expect, test } from '@jest/globals'
import { FILE_BACKOFF } from '../../domain/backoff.ts'
import type { Outcome } from '../../domain/file.ts'
import * as machine from '../../domain/file.ts'
import { type FileRecord, isStored, SKEW_MS } from '../../domain/file-record.ts'
import { refetch } from '../../domain/refetch.ts'
import { observe } from '../../domain/sighting.ts'

const now = 1_700_000_000_000
const rules = {
  serverId: 's1',
  serverName: 'acme',
  settle: { checks: 1, seconds: 0 },
  onChange: 'ignore' as const,
  scanEpoch: 1
}
const seen = { path: '/in/a.csv', size: 10, mtime: 1000, skip: null }
const checksum = { algorithm: 'crc32' as const, value: '00000000' }
const objectOf = (etag: string) => ({ bucket: 'b', key: 'acme/in/a.csv', url: 'u', etag, size: 10, checksum })
const stored = (etag = 'first'): Outcome => ({ kind: 'stored', object: objectOf(etag), messageId: 'm1' })
const error = { type: 'STALLED', message: 'no byte for 30 s', at: now }

function must<T>(value: T | null): T {
  expect(value).not.toBeNull()
  return value!
}
const claimed = (file: FileRecord) => must(machine.claim(file, 'w1', 'acme/in/a.csv', now))
const ended = (file: FileRecord, outcome: Outcome) => must(machine.finish(file, file.epoch, outcome, now, 0))
function uploaded(): FileRecord {
  const result = observe(null, seen, rules, now)
  if (result.kind !== 'insert') throw new Error('the first sighting inserts')
  return ended(claimed(result.record), stored())
}
function announced(file: FileRecord): FileRecord {
  const due = must(machine.claimAnnouncement(file, now))
  return must(machine.announced(due, due.announcement!.epoch, now))
}
const notified = () => announced(uploaded())

describe('a refetch', () => {
  test('makes the file due for a copy and keeps its object', () => {
    const before = notified()
    const asked = must(refetch(before, now))
    expect(asked).toMatchObject({ status: 'pending', attempts: 0, object: before.object, announcement: null })
    expect(asked.dueAt).toBe(now)
  })

  test('that brings the same bytes replaces the object and is announced again under the same id', () => {
    const again = ended(claimed(must(refetch(notified(), now))), stored('second'))
    expect(again).toMatchObject({ status: 'uploaded', refetch: null, object: { etag: 'second' } })
    expect(again.announcement).toMatchObject({ status: 'due', messageId: 'm1' })
    expect(announced(again)).toMatchObject({ status: 'notified' })
  })

  test('is refused for a file that is not stored, is being fetched again, or whose source was let go', () => {
    const waiting = must(refetch(notified(), now))
    expect(refetch(waiting, now)).toBeNull()
    expect(refetch(claimed(waiting), now)).toBeNull()
    expect(refetch({ ...notified(), released: true }, now)).toBeNull()
  })

  test('of a source that has changed leaves the object alone and lets the next scan take a new version', () => {
    const before = notified()
    const asked = claimed(must(refetch(before, now)))
    const back = ended(asked, { kind: 'changed', size: 11, mtime: 2000 })
    expect(back).toMatchObject({ status: 'notified', size: 10, mtime: 1000, object: before.object, released: true })
    expect(back.error).toMatchObject({ type: 'SOURCE_CHANGED' })
    const next = observe(back, { ...seen, size: 11, mtime: 2000 }, rules, now)
    expect(next).toMatchObject({ kind: 'insert', record: { version: 2, status: 'pending', size: 11 } })
  })

  test('of a source that is gone leaves the file as it was, with the reason', () => {
    const before = notified()
    const back = ended(claimed(must(refetch(before, now))), { kind: 'vanished' })
    expect(back).toMatchObject({ status: 'notified', object: before.object, announcement: before.announcement })
    expect(back.error).toMatchObject({ type: 'SFTP_NO_SUCH_PATH' })
    expect(back.history.at(-1)!.reason).toContain('the source is gone')
  })

  test('that fails for the last time, is refused, cancelled, or missed by a complete listing ends as it was', () => {
    const asked = must(refetch(notified(), now))
    const ends = [
      ended({ ...claimed(asked), attempts: FILE_BACKOFF.maxAttempts }, { kind: 'retry', error }),
      ended(claimed(asked), { kind: 'rejected', error }),
      must(machine.cancel(asked, now)),
      must(machine.cancel(claimed(asked), now)),
      must(machine.vanish(asked, now)),
      must(machine.abandon(claimed(asked), now))
    ]
    for (const end of ends) {
      expect(end).toMatchObject({ status: 'notified', refetch: null, object: asked.object, worker: null })
      expect(end.error).not.toBeNull()
      expect(isStored(end)).toBe(true)
    }
  })

  test('that is cancelled or ended by the removal of its server fences the worker out', () => {
    const held = claimed(must(refetch(notified(), now)))
    for (const end of [must(machine.cancel(held, now)), must(machine.abandon(held, now))])
      expect(machine.finish(end, held.epoch, stored('late'), now, 0)).toBeNull()
  })

  test('that ends without its worker drops the upload that is known, and one that a worker ends has dropped it', () => {
    const upload = { uploadId: 'u1', partBytes: 5, size: 10, mtime: 1000, parts: [] }
    const held = { ...claimed(must(refetch(notified(), now))), attempts: FILE_BACKOFF.maxAttempts, upload }
    const dropped = [{ key: 'acme/in/a.csv', uploadId: 'u1' }]
    const late = held.leaseUntil + SKEW_MS
    expect(machine.droppedBy(held, ended(held, { kind: 'retry', error }))).toEqual(dropped)
    expect(machine.droppedBy(held, must(machine.rescue(held, late, 0)))).toEqual(dropped)
    expect(machine.droppedBy(held, ended(held, stored('second')))).toEqual([])
    expect(machine.droppedBy(held, must(machine.rescue({ ...held, attempts: 1 }, late, 0)))).toEqual([])
  })

  test('of a source that a complete listing missed goes to a worker when an upload was begun', () => {
    const upload = { uploadId: null, partBytes: 5, size: 10, mtime: 1000, parts: [] }
    const waiting = { ...must(refetch(notified(), now)), dueAt: now + 5_000, upload }
    expect(must(machine.vanish(waiting, now))).toMatchObject({ status: 'pending', dueAt: now, upload })
    expect(machine.vanish({ ...waiting, dueAt: now }, now)).toBeNull()
  })

  test('ignores sightings: the worker looks at the source itself', () => {
    const asked = must(refetch(notified(), now))
    for (const onChange of ['ignore', 'version'] as const) {
      const sighting = { ...seen, size: 99 }
      expect(observe(asked, sighting, { ...rules, onChange }, now)).toEqual({ kind: 'nothing' })
    }
  })

  test('of a file that was not announced yet is announced once it is stored, and also when it could not be had', () => {
    const asked = must(refetch(uploaded(), now))
    expect(machine.claimAnnouncement(asked, now)).toBeNull()
    const back = ended(claimed(asked), { kind: 'vanished' })
    expect(back).toMatchObject({ status: 'uploaded', announcement: { status: 'due' } })
    expect(announced(back)).toMatchObject({ status: 'notified' })
  })

  test('is not answered by a confirmation of the message before it', () => {
    const sending = must(machine.claimAnnouncement(uploaded(), now))
    const late = sending.announcement!.epoch
    const asked = must(refetch(sending, now))
    const again = ended(claimed(asked), stored('second'))
    expect(machine.announced(must(machine.claimAnnouncement(again, now)), late, now)).toBeNull()
    const back = ended(claimed(asked), { kind: 'vanished' })
    expect(machine.announced(back, late, now)).toBeNull()
    expect(machine.claimAnnouncement(back, now)).not.toBeNull()
  })
})
