import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { AfterUploadOutcome } from '../../domain/after-upload.ts'
import { FILE_BACKOFF, LOST_CONNECTION_BACKOFF } from '../../domain/backoff.ts'
import type { Outcome } from '../../domain/file.ts'
import * as machine from '../../domain/file.ts'
import {
  FILE_STATUSES,
  type FileRecord,
  type FileStatus,
  fileId,
  isStored,
  LEASE_MS,
  SKEW_MS
} from '../../domain/file-record.ts'
import type { Sighting } from '../../domain/readiness.ts'
import { isRefetching, refetch } from '../../domain/refetch.ts'
import { isAtRest, observe, type SightingRules } from '../../domain/sighting.ts'
import { follows } from '../support/transitions.ts'

const start = 1_700_000_000_000
const rules: SightingRules = {
  serverId: 's1',
  serverName: 'acme',
  settle: { checks: 1, seconds: 0 },
  onChange: 'ignore',
  scanEpoch: 1
}
const seen: Sighting = { path: '/in/a.csv', size: 10, mtime: 1000, skip: null }
const error = { type: 'STALLED', message: 'no byte for 30 s', at: start }
const object = {
  bucket: 'b',
  key: 'acme/in/a.csv',
  url: 'http://s3/b/acme/in/a.csv',
  etag: 'e',
  size: 10,
  checksum: { algorithm: 'crc32' as const, value: '00000000' }
}
const stored: Outcome = { kind: 'stored', object, messageId: 'm1' }
const upload = (parts: number) => ({
  uploadId: 'u',
  partBytes: 5,
  size: 10,
  mtime: 1000,
  parts: Array.from({ length: parts }, (_, i) => ({ number: i + 1, sizeBytes: 5, etag: 'e', crc32: '00000000' }))
})

/** The record after a step that must not be refused; deep frozen, so that no step changes its argument. */
function done(file: FileRecord | null): FileRecord {
  expect(file).not.toBeNull()
  return frozen(file!)
}

function frozen<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value)
    for (const inner of Object.values(value)) frozen(inner)
  }
  return value
}

function observed(file: FileRecord | null, sighting = seen, more: Partial<SightingRules> = {}, now = start) {
  const result = observe(file, sighting, { ...rules, ...more }, now)
  if (result.kind === 'nothing') throw new Error('the sighting made nothing')
  return frozen(result.record)
}

const pending = () => observed(null)
const downloading = (file = pending(), now = start) => done(machine.claim(file, 'w1', 'acme/in/a.csv', now))
const finished = (outcome: Outcome, file = downloading(), now = start) =>
  done(machine.finish(file, file.epoch, outcome, now, 0))
const uploaded = () => finished(stored)
function notified(): FileRecord {
  const due = done(machine.claimAnnouncement(uploaded(), start))
  return done(machine.announced(due, due.announcement!.epoch, start))
}

describe('random lives of a file', () => {
  const whole = fc.integer({ min: 0, max: 2 })
  const outcomes: fc.Arbitrary<Outcome> = fc.oneof(
    fc.constant(stored),
    fc.record({ kind: fc.constant('changed' as const), size: whole, mtime: whole }),
    fc.constant({ kind: 'vanished' as const }),
    fc.constant({ kind: 'retry' as const, error }),
    fc.constant({ kind: 'lost' as const, error }),
    fc.record({ kind: fc.constant('deferred' as const), error: fc.constant(error), waitMs: fc.constantFrom(0, 5000) }),
    fc.constant({ kind: 'rejected' as const, error }),
    fc.constant({ kind: 'keyTaken' as const, key: 'acme/other' })
  )
  /** How far behind the real epoch the one is that a worker or scan shows. */
  const behind = fc.constantFrom(0, 0, 0, 1, 2)
  const event = fc.oneof(
    {
      weight: 50,
      arbitrary: fc.record({
        kind: fc.constant('sighting' as const),
        size: whole,
        mtime: whole,
        skip: fc.constantFrom(null, null, null, 'empty', 'too large'),
        behind,
        settle: fc.constantFrom({ checks: 1, seconds: 0 }, { checks: 2, seconds: 30 }),
        onChange: fc.constantFrom('ignore' as const, 'version' as const)
      })
    },
    // What comes next where nothing goes wrong, so that lives get far.
    { weight: 60, arbitrary: fc.record({ kind: fc.constant('next' as const) }) },
    { weight: 40, arbitrary: fc.record({ kind: fc.constant('claim' as const) }) },
    { weight: 40, arbitrary: fc.record({ kind: fc.constant('finish' as const), outcome: outcomes, behind }) },
    {
      weight: 20,
      arbitrary: fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(1, 1000, 40_000, 400_000) })
    },
    { weight: 10, arbitrary: fc.record({ kind: fc.constant('renew' as const), behind }) },
    { weight: 10, arbitrary: fc.record({ kind: fc.constant('keepUpload' as const), parts: whole, behind }) },
    { weight: 10, arbitrary: fc.record({ kind: fc.constant('claimAnnouncement' as const) }) },
    { weight: 10, arbitrary: fc.record({ kind: fc.constant('announced' as const), behind }) },
    { weight: 10, arbitrary: fc.record({ kind: fc.constant('announcementFailed' as const), behind }) },
    {
      weight: 20,
      arbitrary: fc.record({
        kind: fc.constantFrom('rescue', 'retry', 'vanish', 'announceAgain', 'release', 'refetch', 'cancel' as const)
      })
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('abandon' as const) }) }
  )
  type Event = typeof event extends fc.Arbitrary<infer E> ? E : never

  /** The path's versions, and what the fence and the counts were. */
  interface World {
    now: number
    scanEpoch: number
    versions: FileRecord[]
  }

  /** It has its object: for good, or while it is copied again. */
  const isKept = (file: FileRecord) => isStored(file) || isRefetching(file)

  function change(world: World, next: FileRecord | null): void {
    if (!next) return
    const before = world.versions.at(-1)!
    frozen(next)
    if (next.updatedAt !== before.updatedAt || next.status !== before.status) {
      const entered = next.history !== before.history
      if (entered || next.status !== before.status) expect(follows[before.status]).toContain(next.status)
    }
    expect(next.status === before.status || next.history !== before.history).toBe(true)
    expect(next._id).toBe(before._id)
    expect(next.version).toBe(before.version)
    expect(next.epoch).toBeGreaterThanOrEqual(before.epoch)
    expect(next.seenEpoch).toBeGreaterThanOrEqual(before.seenEpoch)
    expect(next.historyDropped + next.history.length).toBeGreaterThanOrEqual(
      before.historyDropped + before.history.length
    )
    if (before.reservedKey) expect(next.reservedKey).toBeDefined()
    if (isKept(before)) {
      expect(isKept(next)).toBe(true)
      const kept = [before.object, before.size, before.mtime]
      if (!isRefetching(before)) expect([next.object, next.size, next.mtime]).toEqual(kept)
      expect([next.size, next.mtime]).toEqual([before.size, before.mtime])
      const said = (file: FileRecord) => file.announcement ?? file.refetch!.announcement
      expect(said(next).messageId).toBe(said(before).messageId)
      expect(said(next).epoch).toBeGreaterThanOrEqual(said(before).epoch)
    }
    world.versions[world.versions.length - 1] = next
  }

  function sight(world: World, event: Extract<Event, { kind: 'sighting' }>): void {
    const before = world.versions.at(-1) ?? null
    world.scanEpoch++
    const { size, mtime, skip, settle, onChange } = event
    const sighting = { ...seen, size, mtime, skip }
    const at = { ...rules, settle, onChange, scanEpoch: Math.max(1, world.scanEpoch - 3 * event.behind) }
    const result = observe(before, sighting, at, world.now)
    const changed = before !== null && (before.size !== size || before.mtime !== mtime)
    if (before && at.scanEpoch < before.seenEpoch) expect(result.kind).toBe('nothing')
    if (result.kind === 'replace') {
      expect(isKept(before!)).toBe(false)
      change(world, result.record)
      expect(result.record).toMatchObject({ size, mtime })
    }
    if (result.kind === 'insert') {
      if (before) {
        expect(isStored(before)).toBe(true)
        expect(before.released || (changed && onChange === 'version')).toBe(true)
      }
      expect(result.record.version).toBe(world.versions.length + 1)
      expect(result.record._id).toBe(fileId('s1', seen.path, result.record.version))
      expect(['settling', 'pending', 'skipped']).toContain(result.record.status)
      world.versions.push(frozen(result.record))
    }
  }

  function goOn(world: World): void {
    const file = world.versions.at(-1)
    const behind = 0
    if (file && file.status !== 'downloading')
      world.now = Math.max(world.now, file.dueAt, file.announcement?.dueAt ?? 0)
    switch (file?.status) {
      case 'pending':
        step(world, { kind: 'claim' })
        break
      case 'downloading':
        step(world, { kind: 'finish', outcome: stored, behind })
        break
      case 'uploaded':
        step(world, { kind: 'claimAnnouncement' })
        step(world, { kind: 'announced', behind })
        break
      default: {
        const { size, mtime } = file ?? { size: 1, mtime: 1 }
        const settle = { checks: 2, seconds: 30 } as const
        step(world, {
          kind: 'sighting',
          size: size as 1,
          mtime: mtime as 1,
          skip: null,
          behind,
          settle,
          onChange: 'version'
        })
      }
    }
  }

  function step(world: World, event: Event): void {
    if (event.kind === 'next') {
      goOn(world)
      return
    }
    if (event.kind === 'wait') {
      world.now += event.ms
      return
    }
    if (event.kind === 'sighting') {
      sight(world, event)
      return
    }
    const file = world.versions.at(-1)
    if (!file) return
    const { now } = world
    const isStale = 'behind' in event && event.behind > 0
    const fenced = (next: FileRecord | null) => {
      if (isStale) expect(next).toBeNull()
      change(world, next)
    }
    const epoch = file.epoch - ('behind' in event ? event.behind : 0)
    const sentEpoch = (file.announcement?.epoch ?? 0) - ('behind' in event ? event.behind : 0)
    switch (event.kind) {
      case 'claim': {
        const next = machine.claim(file, 'w1', 'acme/in/a.csv', now)
        if (next) expect([next.epoch, next.attempts]).toEqual([file.epoch + 1, file.attempts + 1])
        else expect(file.status !== 'pending' || file.dueAt > now).toBe(true)
        change(world, next)
        break
      }
      case 'finish':
        fenced(machine.finish(file, epoch, event.outcome, now, 0.5))
        break
      case 'renew':
        fenced(machine.renew(file, epoch, { bytes: 1, bytesPerSecond: 1 }, now))
        break
      case 'keepUpload':
        fenced(machine.keepUpload(file, epoch, upload(event.parts), now))
        break
      case 'claimAnnouncement':
        change(world, machine.claimAnnouncement(file, now))
        break
      case 'announced':
        fenced(machine.announced(file, sentEpoch, now))
        break
      case 'announcementFailed':
        fenced(machine.announcementFailed(file, sentEpoch, error, 1000, now))
        break
      case 'announceAgain':
        change(world, machine.announceAgain(file, now))
        break
      case 'rescue':
        change(world, machine.rescue(file, now, 0.5))
        break
      case 'retry':
        change(world, machine.retry(file, now))
        break
      case 'vanish':
        change(world, machine.vanish(file, now))
        break
      case 'abandon':
        change(world, machine.abandon(file, now))
        break
      case 'cancel':
        change(world, machine.cancel(file, now))
        break
      case 'refetch':
        expect(refetch(file, now) !== null).toBe(isStored(file) && !file.released)
        change(world, refetch(file, now))
        break
      case 'release':
        // A completed post action; only a file that was announced has one.
        if (file.status === 'notified') world.versions[world.versions.length - 1] = frozen({ ...file, released: true })
    }
  }

  function expectSound(file: FileRecord): void {
    expect(file.attempts).toBeGreaterThanOrEqual(0)
    expect(file.attempts).toBeLessThanOrEqual(FILE_BACKOFF.maxAttempts)
    expect(file.history.length).toBeLessThanOrEqual(200)
    expect(file.history.at(-1)!.status).toBe(file.status)
    const [before, entry] = file.history.slice(-2)
    if (before && entry) {
      const same = (['status', 'worker', 'reason'] as const).every((field) => before[field] === entry[field])
      expect(same).toBe(false)
      expect(follows[before.status]).toContain(entry.status)
    }
    expect(file.object !== null).toBe(isKept(file))
    if (isRefetching(file)) expect(['pending', 'downloading']).toContain(file.status)
    expect(file.announcement !== null).toBe(isStored(file))
    if (file.status === 'notified') expect(file.history.some(({ status }) => status === 'uploaded')).toBe(true)
    if (file.status === 'downloading') {
      expect(file.worker).toBe('w1')
      expect(file.reservedKey).toBeDefined()
    } else expect(file.leaseUntil).toBe(0)
    if (file.status === 'failed') expect(file.error).not.toBeNull()
    if (file.status === 'skipped') expect(file.reason).toMatch(/./)
  }

  const lives = fc.array(event, { maxLength: 80, size: 'max' })

  test('every change of state is in the table, every stale epoch is refused, nothing stored is lost, attempts end', () => {
    const reached = new Map<FileStatus, number>()
    let versions = 0
    fc.assert(
      fc.property(lives, (events) => {
        const world: World = { now: start, scanEpoch: 1, versions: [] }
        for (const one of events) {
          const stored = world.versions.filter(isKept).length
          step(world, one)
          expect(world.versions.filter(isKept).length).toBeGreaterThanOrEqual(stored)
          for (const file of world.versions.slice(0, -1)) expect(isStored(file)).toBe(true)
          const file = world.versions.at(-1)
          if (!file) continue
          expectSound(file)
          reached.set(file.status, (reached.get(file.status) ?? 0) + 1)
        }
        versions += world.versions.length
      }),
      { numRuns: 200 }
    )
    // The lives led everywhere, and often.
    for (const status of FILE_STATUSES) expect([status, (reached.get(status) ?? 0) > 5]).toEqual([status, true])
    expect(versions).toBeGreaterThan(200)
  })

  test('from wherever a life has led, a file that changes and is then left in peace ends in notified', () => {
    fc.assert(
      fc.property(lives, (events) => {
        const world: World = { now: start, scanEpoch: 1, versions: [] }
        for (const one of events) if (one.kind !== 'abandon') step(world, one)
        world.now += 10 * 60_000
        const rescued = world.versions.length > 0 ? machine.rescue(world.versions.at(-1)!, world.now, 0) : null
        if (rescued) change(world, rescued)
        for (let round = 0; round < 3; round++) {
          const calm = { settle: { checks: 2, seconds: 30 }, onChange: 'version', behind: 0, skip: null } as const
          sight(world, { kind: 'sighting', size: 9, mtime: 9, ...calm })
          world.now += 10 * 60_000
        }
        const file = world.versions.at(-1)!
        if (!isStored(file)) {
          const held = downloading(file, world.now)
          const due = done(machine.claimAnnouncement(finished(stored, held, world.now), world.now))
          expect(machine.announced(due, due.announcement!.epoch, world.now)).toMatchObject({ status: 'notified' })
        } else expect(file).toMatchObject({ size: 9, mtime: 9 })
      }),
      { numRuns: 200 }
    )
  })
})

describe('identity', () => {
  test('a version has one id, and no two versions of a server share one', () => {
    const name = fc.tuple(
      fc.stringMatching(/^[a-z0-9]{1,8}$/),
      fc.string({ minLength: 1 }),
      fc.integer({ min: 1, max: 99 })
    )
    const names = fc.uniqueArray(name, { selector: (parts) => parts.join('\0'), maxLength: 50 })
    fc.assert(
      fc.property(names, (all) => {
        const ids = all.map(([serverId, path, version]) => fileId(serverId, path, version))
        expect(new Set(ids).size).toBe(all.length)
        for (const id of ids) expect(id).toMatch(/^[\w-]{24}$/)
      })
    )
  })
})

describe('history', () => {
  test('does not go back in time where a process stood still before it wrote, or its clock is behind', () => {
    const cancelled = done(machine.cancel(downloading(), start + 60_000))
    const late = done(machine.retry(cancelled, start))
    expect(late.history.at(-1)).toMatchObject({ at: start + 60_000, status: 'pending' })
    expect(late).toMatchObject({ dueAt: start, updatedAt: start })
  })

  test('holds 200 entries at most and counts what was dropped', () => {
    let file = pending()
    let entries = file.history.length
    for (let round = 0; round < 300; round++) {
      file = downloading(file, start)
      file = finished({ kind: 'deferred', error, waitMs: 0 }, file)
      entries += 2
      expect(file.history.length).toBe(Math.min(200, entries))
      expect(file.historyDropped).toBe(Math.max(0, entries - 200))
    }
    expect(file.history.at(-1)).toMatchObject({ status: 'pending', reason: error.message })
  })

  test('folds repeats into one entry, with the time of the last', () => {
    let file = pending()
    for (let round = 1; round <= 500; round++) file = done(machine.retry(file, start + round))
    expect(file.history.length).toBe(2)
    expect(file.history[1]).toMatchObject({ status: 'pending', reason: 'retried', times: 500, at: start + 500 })
    expect(file.historyDropped).toBe(0)
  })

  test('does not fold the same state for another reason', () => {
    const once = finished({ kind: 'deferred', error, waitMs: 0 })
    const other = { ...error, message: 'another' }
    const twice = finished({ kind: 'deferred', error: other, waitMs: 0 }, downloading(once))
    expect(twice.history.map(({ reason }) => reason)).toEqual([null, null, error.message, null, 'another'])
  })

  test('looks at a settling file that is the same write no entry', () => {
    const settle = { checks: 10, seconds: 3600 }
    let file = observed(null, seen, { settle })
    for (let n = 1; n < 50; n++) file = observed(file, seen, { settle }, start + n)
    expect(file.history.length).toBe(1)
    expect(file.settle!.looks).toBe(50)
  })
})

describe('observe', () => {
  test('a new file settles, or is pending at once where no time is asked for', () => {
    expect(observed(null, seen, { settle: { checks: 2, seconds: 30 } })).toMatchObject({
      status: 'settling',
      version: 1,
      dueAt: start + 30_000
    })
    expect(pending()).toMatchObject({ status: 'pending', filename: 'a.csv', dueAt: start })
  })

  test('a file that grew between listings is not pending', () => {
    const settle = { checks: 2, seconds: 30 }
    const first = observed(null, seen, { settle })
    const grown = observed(first, { ...seen, size: 11 }, { settle }, start + 60_000)
    expect(grown).toMatchObject({ status: 'settling', size: 11, settle: { looks: 1, since: start + 60_000 } })
    expect(observed(grown, { ...seen, size: 11 }, { settle }, start + 89_999).status).toBe('settling')
    expect(observed(grown, { ...seen, size: 11 }, { settle }, start + 90_000).status).toBe('pending')
  })

  test('what an older scan saw changes nothing', () => {
    const file = observed(null, seen, { scanEpoch: 7, settle: { checks: 2, seconds: 30 } })
    const older = observe(file, { ...seen, size: 1 }, { ...rules, scanEpoch: 6 }, start)
    expect(older).toEqual({ kind: 'nothing' })
  })

  test.each([
    ['uploaded', uploaded],
    ['notified', notified]
  ])('an %s file that changed is left alone under `ignore` and gets a next version under `version`', (_, make) => {
    const file = make()
    const changes = [{ size: 11 }, { mtime: 2000 }, { size: 11, skip: 'too large' }]
    for (const changed of changes) {
      const sighting = { ...seen, ...changed }
      expect(observe(file, sighting, rules, start)).toEqual({ kind: 'nothing' })
      const next = observe(file, sighting, { ...rules, onChange: 'version' }, start)
      expect(next).toMatchObject({ kind: 'insert', record: { version: 2, size: sighting.size, object: null } })
    }
    expect(observe(file, seen, { ...rules, onChange: 'version' }, start)).toEqual({ kind: 'nothing' })
  })

  test.each(['ignore', 'version'] as const)(
    'after a post action the same name is the next version under `%s`',
    (onChange) => {
      const released = { ...notified(), released: true }
      expect(observe(released, seen, { ...rules, onChange }, start)).toMatchObject({
        kind: 'insert',
        record: { version: 2, status: 'pending', released: false, attempts: 0, epoch: 0 }
      })
    }
  )

  test('a file that is being copied is left to its worker', () => {
    expect(observe(downloading(), { ...seen, size: 99 }, rules, start)).toEqual({ kind: 'nothing' })
  })

  test('a failed file opens again when it changes, and only then', () => {
    const failed = finished({ kind: 'rejected', error })
    expect(observe(failed, seen, rules, start)).toEqual({ kind: 'nothing' })
    expect(observed(failed, { ...seen, mtime: 2 })).toMatchObject({ status: 'pending', attempts: 0, error: null })
  })

  test('a skipped file opens again when the policy takes it, and keeps the latest reason until then', () => {
    const skipped = observed(null, { ...seen, skip: 'empty' })
    expect(skipped).toMatchObject({ status: 'skipped', reason: 'empty' })
    expect(observe(skipped, { ...seen, skip: 'empty' }, rules, start)).toEqual({ kind: 'nothing' })
    expect(observed(skipped, { ...seen, skip: 'too large' })).toMatchObject({ status: 'skipped', reason: 'too large' })
    expect(observed(skipped)).toMatchObject({ status: 'pending', reason: null })
  })

  test('a vanished file opens again when it returns, changed or not', () => {
    const vanished = done(machine.vanish(pending(), start))
    expect(observed(vanished)).toMatchObject({ status: 'pending' })
    expect(observed(vanished, { ...seen, size: 1 }, { settle: { checks: 2, seconds: 1 } }).status).toBe('settling')
    expect(observed(vanished, { ...seen, skip: 'empty' }).status).toBe('skipped')
  })

  test('a pending file that changed settles again, and one that the policy no longer takes is skipped', () => {
    const settle = { checks: 2, seconds: 30 }
    expect(observed(pending(), { ...seen, size: 11 }, { settle })).toMatchObject({ status: 'settling', size: 11 })
    expect(observed(pending(), { ...seen, skip: 'empty' })).toMatchObject({ status: 'skipped' })
    expect(observe(pending(), seen, rules, start)).toEqual({ kind: 'nothing' })
  })

  test('a late sighting does not open the file of a removed server', () => {
    for (const file of [pending(), downloading(), finished({ kind: 'rejected', error })]) {
      const abandoned = done(machine.abandon(file, start))
      expect(observe(abandoned, seen, { ...rules, scanEpoch: 1e9 }, start)).toEqual({ kind: 'nothing' })
    }
  })
})

describe('the fence', () => {
  test('a worker that lost the file changes nothing, whatever it reports', () => {
    const late = downloading()
    const free = done(machine.rescue(late, late.leaseUntil + SKEW_MS, 0))
    const again = downloading(free, free.dueAt)
    for (const file of [free, again, finished(stored, again), done(machine.abandon(late, start))]) {
      const { epoch } = late
      expect(machine.renew(file, epoch, null, start)).toBeNull()
      expect(machine.keepUpload(file, epoch, null, start)).toBeNull()
      expect(machine.finish(file, epoch, stored, start, 0)).toBeNull()
      expect(machine.finish(file, epoch, { kind: 'vanished' }, start, 0)).toBeNull()
    }
    expect(machine.finish(again, again.epoch, stored, start, 0)).toMatchObject({ status: 'uploaded' })
  })

  test('nobody claims a file that is held, not due, or not pending', () => {
    expect(machine.claim(downloading(), 'w2', 'k', start)).toBeNull()
    expect(machine.claim({ ...pending(), dueAt: start + 1 }, 'w2', 'k', start)).toBeNull()
    expect(machine.claim(uploaded(), 'w2', 'k', start)).toBeNull()
  })

  test('a lease is not ended before its time and the skew of clocks', () => {
    const file = downloading()
    expect(machine.rescue(file, start + LEASE_MS + SKEW_MS - 1, 0)).toBeNull()
    expect(machine.rescue(file, start + LEASE_MS + SKEW_MS, 0)).toMatchObject({ status: 'pending' })
    const renewed = done(machine.renew(file, file.epoch, null, start + 20_000))
    expect(machine.rescue(renewed, start + LEASE_MS + SKEW_MS, 0)).toBeNull()
  })

  test('parts that were finished since the last call join those that are kept, unless the upload is another one', () => {
    const [one, two, three] = upload(3).parts
    let file = downloading()
    const keep = (change: object) => {
      file = done(machine.keepUpload(file, file.epoch, { ...upload(0), ...change }, start))
      return file.upload!.parts.map(({ number }) => number)
    }
    expect(keep({ parts: [three] })).toEqual([3])
    expect(keep({ parts: [one, two] })).toEqual([1, 2, 3])
    expect(keep({ parts: [one] })).toEqual([1, 2, 3])
    expect(keep({ uploadId: 'another', parts: [two] })).toEqual([2])
    expect(keep({ uploadId: null, parts: [] })).toEqual([])
    expect(done(machine.keepUpload(file, file.epoch, null, start)).upload).toBeNull()
  })

  test('a key once reserved stays with the file', () => {
    const back = finished({ kind: 'deferred', error, waitMs: 0 })
    expect(done(machine.claim(back, 'w2', 'another key', start)).reservedKey).toBe('acme/in/a.csv')
    const other = finished({ kind: 'keyTaken', key: 'acme/other' })
    expect(downloading(other).reservedKey).toBe('acme/other')
  })
})

describe('attempts', () => {
  function untilEnd(attempt: (file: FileRecord) => FileRecord, most = 100): FileRecord {
    let file = pending()
    for (let round = 0; round < most && file.status === 'pending'; round++)
      file = attempt(downloading(file, file.dueAt))
    return file
  }

  test('errors end in failed after the last attempt, with the error', () => {
    const file = untilEnd((held) => finished({ kind: 'retry', error }, held, held.updatedAt))
    expect(file).toMatchObject({ status: 'failed', attempts: FILE_BACKOFF.maxAttempts, error })
  })

  test('a file that kills its worker ends in failed', () => {
    const file = untilEnd((held) => done(machine.rescue(held, held.leaseUntil + SKEW_MS, 0)))
    expect(file).toMatchObject({ status: 'failed', error: { type: 'WORKER_LOST' } })
  })

  test('a file that kills its worker after one part, and on every attempt after that, ends in failed', () => {
    const file = untilEnd((held) => {
      const kept = held.upload ? held : done(machine.keepUpload(held, held.epoch, upload(1), held.updatedAt))
      return done(machine.rescue(kept, kept.leaseUntil + SKEW_MS, 0))
    })
    expect(file).toMatchObject({ status: 'failed', error: { type: 'WORKER_LOST' } })
  })

  test('a lease that ran out after a finished part costs none', () => {
    let parts = 0
    const file = untilEnd((held) => {
      const kept = done(machine.keepUpload(held, held.epoch, upload(++parts), held.updatedAt))
      return done(machine.rescue(kept, kept.leaseUntil + SKEW_MS, 0))
    }, 50)
    expect(file).toMatchObject({ status: 'pending', attempts: 0, upload: { parts: { length: 50 } } })
  })

  test('what is not the fault of the file costs none', () => {
    const file = untilEnd((held) => finished({ kind: 'deferred', error, waitMs: 0 }, held, held.updatedAt), 50)
    expect(file).toMatchObject({ status: 'pending', attempts: 0 })
  })

  const lose = (held: FileRecord) => finished({ kind: 'lost', error }, held, held.updatedAt)
  const { maxAttempts: mostLost, capMs } = LOST_CONNECTION_BACKOFF

  test('a line that ends its connections for an hour costs a file none, and it goes on within a minute once the line is good', () => {
    let file = pending()
    for (let now = start; now < start + 3_600_000; now = file.dueAt)
      file = done(machine.finish(downloading(file, now), file.epoch + 1, { kind: 'lost', error }, now, Math.random()))
    expect(file).toMatchObject({ status: 'pending', attempts: 0, error })
    expect(file.dueAt - file.updatedAt).toBeLessThanOrEqual(capMs)
  })

  test('a file that ends every connection does so more and more seldom, and ends in failed', () => {
    const pauses: number[] = []
    const file = untilEnd((held) => {
      const next = lose(held)
      pauses.push(next.dueAt - held.updatedAt)
      return next
    }, 10 * mostLost)
    expect(pauses).toHaveLength(mostLost)
    expect(pauses.slice(0, 4)).toEqual([100, 200, 400, 800])
    expect(file).toMatchObject({ status: 'failed', attempts: 1, error: { type: error.type } })
    expect(file.error!.message).toBe(`${error.message} It was number ${mostLost} in a row to end under this file.`)
  })

  test.each<[string, (file: FileRecord) => FileRecord]>([
    ['one that finishes a part', (file) => lose(done(keepOnePart(downloading(file, file.dueAt))))],
    ['a retry by an operator', (file) => done(machine.retry(file, file.updatedAt))],
    ['a change of the file', (file) => observed(file, { ...seen, size: 11 }, {}, file.updatedAt)]
  ])('%s begins the count of lost connections anew', (_, begin) => {
    const nearly = untilEnd(lose, mostLost - 1)
    expect(lose(downloading(nearly, nearly.dueAt)).status).toBe('failed')
    const anew = begin(nearly)
    expect(lose(downloading(anew, anew.dueAt)).status).toBe('pending')
  })

  const keepOnePart = (held: FileRecord) => machine.keepUpload(held, held.epoch, upload(1), held.updatedAt)

  test('lost connections leave a file all its attempts', () => {
    const lost = untilEnd(lose, mostLost - 1)
    expect(finished({ kind: 'retry', error }, downloading(lost, lost.dueAt))).toMatchObject({
      status: 'pending',
      attempts: 1
    })
  })

  test('an operator opens failed, vanished and waiting files from the first attempt, and no others', () => {
    for (const file of [finished({ kind: 'rejected', error }), finished({ kind: 'vanished' }), pending()]) {
      expect(machine.retry(file, start)).toMatchObject({ status: 'pending', attempts: 0, error: null, dueAt: start })
    }
    const skipped = observed(null, { ...seen, skip: 'empty' })
    for (const file of [downloading(), uploaded(), notified(), skipped]) expect(machine.retry(file, start)).toBeNull()
  })
})

describe('an upload of a file that changed or is gone', () => {
  test('is remembered, so that the next worker aborts what is left of it, and never gone on from', () => {
    const held = downloading()
    const kept = done(machine.keepUpload(held, held.epoch, upload(2), start))
    for (const outcome of [{ kind: 'changed', size: 1, mtime: start }, { kind: 'vanished' }] as const) {
      const file = done(machine.finish(kept, kept.epoch, outcome, start, 0))
      expect(file.upload).toMatchObject({ uploadId: null, parts: [] })
      expect(done(machine.finish(held, held.epoch, outcome, start, 0)).upload).toBeNull()
    }
  })
})

describe('vanish and abandon', () => {
  test('a file that a worker has been at is left to a worker, who looks whether it was stored', () => {
    const tried = finished({ kind: 'retry', error })
    expect(tried).toMatchObject({ status: 'pending', epoch: 1 })
    expect(tried.dueAt).toBeGreaterThan(start)
    const hurried = done(machine.vanish(tried, start))
    expect(hurried).toMatchObject({ status: 'pending', dueAt: start })
    expect(machine.vanish(hurried, start)).toBeNull()
    const changed = finished({ kind: 'changed', size: 1, mtime: start })
    expect(machine.vanish(changed, start)).toMatchObject({ status: 'pending', dueAt: start, settle: null })
  })

  test('only what waits vanishes', () => {
    expect(machine.vanish(pending(), start)).toMatchObject({ status: 'vanished' })
    for (const file of [downloading(), uploaded(), notified(), finished({ kind: 'rejected', error })]) {
      expect(machine.vanish(file, start)).toBeNull()
    }
  })

  test('a removed server leaves what is stored, and its announcement, as it is', () => {
    expect(machine.abandon(uploaded(), start)).toBeNull()
    expect(machine.abandon(notified(), start)).toBeNull()
    const abandoned = done(machine.abandon(downloading(), start))
    expect(abandoned).toMatchObject({ status: 'skipped', reason: 'server deleted', upload: null, worker: null })
    expect(abandoned.epoch).toBe(downloading().epoch + 1)
    expect(machine.abandon(abandoned, start)).toBeNull()
  })
})

describe('cancel', () => {
  test('a file on its way is failed, and its worker is fenced out with what it still reports', () => {
    const copying = downloading()
    const cancelled = done(machine.cancel(copying, start))
    expect(cancelled).toMatchObject({ status: 'failed', worker: null, error: { type: 'CANCELLED' } })
    expect(machine.finish(cancelled, copying.epoch, stored, start, 0.5)).toBeNull()
    expect(machine.renew(cancelled, copying.epoch, null, start)).toBeNull()
    expect(machine.retry(cancelled, start)).toMatchObject({ status: 'pending', attempts: 0, error: null })
  })

  test('a file that had not settled settles when it is retried: it may be half of one', () => {
    const settling = observed(null, seen, { settle: { checks: 2, seconds: 5 } })
    const cancelled = done(machine.cancel(settling, start))
    expect(cancelled).toMatchObject({ status: 'failed', settle: null })
    const retried = done(machine.retry(cancelled, start + 1))
    expect(retried).toMatchObject({ status: 'settling', attempts: 0, error: null, dueAt: start + 1 })
    expect(done(machine.vanish(settling, start))).toMatchObject({ status: 'vanished' })
    expect(machine.retry(done(machine.vanish(settling, start)), start)).toMatchObject({ status: 'settling' })
  })

  test('the upload is dropped, and a retry begins anew but knows that something may be left of it', () => {
    const begun = { partBytes: 16, size: 10, mtime: 1000, uploadId: 'u', parts: [] }
    const parts = [{ number: 1, sizeBytes: 10, etag: 'e', crc32: '00000000' }]
    const copying = { ...downloading(), upload: { ...begun, parts } }
    expect(machine.droppedUploads(copying)).toEqual([{ key: copying.reservedKey, uploadId: 'u' }])
    const cancelled = done(machine.cancel(copying, start))
    expect(cancelled.upload).toEqual({ ...begun, uploadId: null, parts: [] })
    expect(machine.droppedUploads(cancelled)).toEqual([])
    expect(machine.droppedUploads(downloading())).toEqual([])
  })

  test('a stored file cannot be cancelled', () => {
    expect(machine.cancel(uploaded(), start)).toBeNull()
    expect(machine.cancel(notified(), start)).toBeNull()
  })
})

describe('announcements', () => {
  test('uploaded and "must be announced" are one write', () => {
    expect(uploaded()).toMatchObject({
      status: 'uploaded',
      announcement: { status: 'due', dueAt: start, messageId: 'm1' }
    })
  })

  test('a due announcement goes to one notifier, and to the next when its lease ran out', () => {
    const held = done(machine.claimAnnouncement(uploaded(), start))
    expect(machine.claimAnnouncement(held, start + LEASE_MS)).toBeNull()
    const next = done(machine.claimAnnouncement(held, start + LEASE_MS + SKEW_MS))
    expect(machine.announced(next, held.announcement!.epoch, start)).toBeNull()
    expect(machine.announced(next, next.announcement!.epoch, start)).toMatchObject({
      status: 'notified',
      announcement: { status: 'sent', at: start }
    })
  })

  test('a failed one is due again, and the file stays uploaded', () => {
    const held = done(machine.claimAnnouncement(uploaded(), start))
    const failed = done(machine.announcementFailed(held, held.announcement!.epoch, error, 500, start))
    expect(failed).toMatchObject({
      status: 'uploaded',
      announcement: { status: 'due', dueAt: start + 500, attempts: 1 }
    })
    expect(machine.claimAnnouncement(failed, start + 499)).toBeNull()
    expect(machine.claimAnnouncement(failed, start + 500)).not.toBeNull()
  })

  test('announcing again changes neither the state nor the id of the message', () => {
    const again = done(machine.announceAgain(notified(), start + 5))
    expect(again).toMatchObject({
      status: 'notified',
      announcement: { status: 'due', dueAt: start + 5, messageId: 'm1' }
    })
    expect(machine.announceAgain(downloading(), start)).toBeNull()
  })

  test('a confirmation of a message from before does not answer the wish for another', () => {
    const held = done(machine.claimAnnouncement(uploaded(), start))
    const again = done(machine.announceAgain(held, start))
    expect(machine.announced(again, held.announcement!.epoch, start)).toBeNull()
    expect(machine.claimAnnouncement(again, start)).not.toBeNull()
  })
})

describe('after the upload', () => {
  const clearing = { clears: true } as const
  const announcedFile = (more: Partial<SightingRules> = clearing) => {
    const copying = downloading(observed(null, seen, more))
    const due = done(machine.claimAnnouncement(finished(stored, copying), start))
    return done(machine.announced(due, due.announcement!.epoch, start))
  }
  const ended = (file: FileRecord, outcome: AfterUploadOutcome) => {
    const taken = done(machine.claimAfterUpload(file, start))
    return done(machine.endAfterUpload(taken, taken.afterUpload!.epoch, outcome, start, 0))
  }

  test('nothing is due before the announcement is confirmed', () => {
    const copying = downloading(observed(null, seen, clearing))
    for (const file of [copying, finished(stored, copying)]) {
      expect(file.afterUpload).toMatchObject({ status: 'waiting' })
      expect(machine.claimAfterUpload(file, start)).toBeNull()
    }
    expect(machine.claimAfterUpload(announcedFile(), start)).not.toBeNull()
    expect(machine.claimAfterUpload(announcedFile({}), start)).toBeNull()
  })

  test('no end of it changes the state of the file, and an old epoch says nothing', () => {
    const taken = done(machine.claimAfterUpload(announcedFile(), start))
    for (const kind of ['deleted', 'gone', 'left', 'kept', 'retry', 'deferred'] as const) {
      const outcome = { kind, error, waitMs: 5 } as AfterUploadOutcome
      expect(machine.endAfterUpload(taken, 1, outcome, start, 0)!.status).toBe('notified')
      expect(machine.endAfterUpload(taken, 0, outcome, start, 0)).toBeNull()
    }
  })

  test('the next file of a deleted, moved or replaced one is a new version under either policy, even if it looks the same', () => {
    for (const outcome of [{ kind: 'deleted' }, { kind: 'moved', to: '/done/a' }, { kind: 'left' }] as const) {
      for (const onChange of ['ignore', 'version'] as const) {
        const file = ended(announcedFile(), outcome)
        expect(file.released).toBe(true)
        const next = observe(file, seen, { ...rules, onChange }, start)
        expect(next).toMatchObject({ kind: 'insert', record: { version: 2, status: 'pending' } })
      }
    }
  })

  test('a scan that may have listed the file before it was deleted makes no version of it, the next one does', () => {
    const taken = done(machine.claimAfterUpload(announcedFile(), start))
    const end = (outcome: AfterUploadOutcome) =>
      done(machine.endAfterUpload(taken, taken.afterUpload!.epoch, outcome, start, 0, 12))
    for (const outcome of [{ kind: 'deleted' }, { kind: 'gone' }] as const) {
      expect(observe(end(outcome), seen, { ...rules, scanEpoch: 12 }, start)).toEqual({ kind: 'nothing' })
      const next = observe(end(outcome), seen, { ...rules, scanEpoch: 13 }, start)
      expect(next).toMatchObject({ kind: 'insert', record: { version: 2, seenEpoch: 13 } })
    }
    expect(end({ kind: 'deferred', error: null, waitMs: 5 }).seenEpoch).toBe(taken.seenEpoch)
  })

  test('what is tried again or has failed is not a new version, and an operator tries it again', () => {
    let file = announcedFile()
    expect(observe(file, seen, rules, start)).toEqual({ kind: 'nothing' })
    for (let now = start; file.afterUpload!.status === 'due'; now += 86_400_000) {
      const taken = done(machine.claimAfterUpload(file, now))
      file = done(machine.endAfterUpload(taken, taken.afterUpload!.epoch, { kind: 'retry', error }, now, 0))
    }
    expect(file).toMatchObject({ status: 'notified', released: false, afterUpload: { status: 'failed', error } })
    expect(observe(file, seen, rules, start)).toEqual({ kind: 'nothing' })
    expect(isAtRest(file)).toBe(false)
    expect(machine.retry(file, start)).toMatchObject({
      status: 'notified',
      afterUpload: { status: 'due', dueAt: start }
    })
    expect(machine.retry(notified(), start)).toBeNull()
  })

  test('a scanner may remember only what nothing more can become of', () => {
    expect(isAtRest(notified())).toBe(true)
    expect(isAtRest(uploaded())).toBe(true)
    expect(isAtRest(pending())).toBe(false)
    expect(isAtRest(announcedFile())).toBe(false)
    expect(isAtRest(ended(announcedFile(), { kind: 'deleted' }))).toBe(false)
    expect(isAtRest(ended(announcedFile(), { kind: 'kept' }))).toBe(true)
  })

  test('a waiting file takes up a changed policy', () => {
    const file = observed(null)
    expect(observed(file, seen, clearing).afterUpload).toMatchObject({ status: 'waiting' })
    expect(observed(observed(file, seen, clearing), seen, { order: 'name' })).toMatchObject({
      afterUpload: null,
      turn: expect.stringContaining('a.csv')
    })
  })
})
