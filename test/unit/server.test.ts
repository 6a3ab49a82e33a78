import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { SealedSecret } from '../../domain/sealed.ts'
import * as registry from '../../domain/server.ts'
import { newServer, parseNewServer } from '../../domain/server-input.ts'

const now = 1_700_000_000_000
const sealed: SealedSecret = { keyId: 'k', dataKey: 'd', value: 'v' }
const { input } = parseNewServer({ name: 'acme', host: 'h', username: 'u', password: 'p' })
const fresh = (change: Partial<registry.ServerRecord> = {}): registry.ServerRecord => ({
  ...newServer('s1', input, { password: sealed }, now),
  ...change
})
const slot = { id: 'c1', holder: 'n1/scanner', kind: 'scan' as const }
const error = { type: 'SFTP_UNREACHABLE', message: 'no', at: now }

describe('connection slots', () => {
  const kinds = fc.constantFrom<registry.SlotKind>(...registry.SLOT_KINDS)
  const steps = fc.array(
    fc.oneof(
      fc.record({ kind: fc.constant('take' as const), of: kinds }),
      fc.record({ kind: fc.constantFrom('release' as const, 'renew' as const), which: fc.nat(9) }),
      fc.record({ kind: fc.constant('wait' as const), ms: fc.integer({ min: 0, max: 40_000 }) })
    ),
    { maxLength: 40 }
  )

  test('no more than maxConnections are ever held, no more than three log in at a time, and one of several is left free of copies', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), steps, (maxConnections, all) => {
        let server = fresh({ maxConnections })
        let at = now
        for (const [i, step] of all.entries()) {
          if (step.kind === 'wait') at += step.ms
          if (step.kind === 'take') {
            const refusal = registry.refusalOf(server, step.of, at)
            const taken = registry.takeSlot(server, { id: `${i}`, holder: 'w', kind: step.of }, at)
            expect(taken === null).toBe(refusal !== '')
            server = taken ?? server
          }
          const slot = 'which' in step ? server.slots[step.which] : undefined
          if (step.kind === 'release' && slot) server = registry.releaseSlot(server, slot.id)
          // A worker that did not renew in time has stopped itself.
          if (step.kind === 'renew' && slot && slot.until > at)
            server = registry.renewSlot(server, slot.id, at) ?? server
          const held = server.slots.filter(({ until }) => until > at)
          expect(held.length).toBeLessThanOrEqual(maxConnections)
          expect(held.filter((one) => at - one.at! < 10_000).length).toBeLessThanOrEqual(3)
          const copies = held.filter(({ kind }) => kind === 'transfer').length
          expect(copies).toBeLessThanOrEqual(Math.max(1, maxConnections - 1))
        }
      })
    )
  })

  test('a slot that is gone, or of a removed server, is not renewed', () => {
    const server = registry.takeSlot(fresh(), { id: 'a', holder: 'w', kind: 'scan' }, now)!
    expect(registry.renewSlot(server, 'b', now)).toBeNull()
    expect(registry.renewSlot(registry.tombstone(server, now), 'a', now)).toBeNull()
    expect(registry.renewSlot(server, 'a', now + 5)!.slots).toMatchObject([
      { id: 'a', until: now + 5 + registry.SLOT_LEASE_MS }
    ])
  })

  test('a server that is not active, or fails, is only logged in to by a test', () => {
    for (const server of [registry.pause(fresh(), now), registry.serverFailed(fresh(), error, true, now)]) {
      for (const kind of ['scan', 'look', 'post', 'transfer'] as const)
        expect(registry.refusalOf(server, kind, now)).toMatch(/./)
      expect(registry.refusalOf(server, 'test', now)).toBe('')
    }
    const failing = registry.serverFailed(fresh(), error, false, now)
    // Also when its next scan is due: that one finds out.
    for (const at of [now, failing.nextScanAt + 1]) expect(registry.refusalOf(failing, 'transfer', at)).toMatch('fails')
    expect(registry.refusalOf(failing, 'scan', now)).toBe('')
    expect(registry.refusalOf(registry.tombstone(fresh(), now), 'test', now)).toMatch('removed')
  })

  test('where there is one connection, whatever waits makes copies yield; where there are several, a scan or a test does', () => {
    const kinds = ['scan', 'look', 'post', 'test', 'transfer'] as const
    const yields = (maxConnections: number) =>
      kinds.filter((kind) => registry.wantSlot(fresh({ maxConnections }), kind, now) !== null)
    expect(yields(1)).toEqual(['scan', 'look', 'post', 'test'])
    expect(yields(2)).toEqual(['scan', 'test'])
  })

  test('where there is one connection, a waiting scan goes before copies, which go on once it was there', () => {
    const wanted = registry.wantSlot(fresh({ maxConnections: 1 }), 'scan', now)!
    expect(registry.refusalOf(wanted, 'transfer', now)).toBe('a scan waits')
    expect(registry.refusalOf(wanted, 'scan', now)).toBe('')
    const scanned = registry.takeSlot(wanted, { id: 'a', holder: 'w', kind: 'scan' }, now)!
    expect(registry.refusalOf(registry.releaseSlot(scanned, 'a'), 'transfer', now)).toBe('')
  })
})

describe('bandwidth', () => {
  test('is shared by the copying slots that are held now; scans take no part of it', () => {
    let server = fresh({ maxConnections: 8, bandwidth: 900_000 })
    const take = (id: string, kind: registry.SlotKind, at = now) => {
      server = registry.takeSlot(server, { id, holder: 'w', kind }, at)!
    }
    take('a', 'transfer')
    take('s', 'scan', now + 8_000)
    expect(registry.bandwidthShare(server, now + 8_000)).toBe(900_000)
    take('b', 'transfer', now + 16_000)
    take('c', 'transfer', now + 24_000)
    expect(registry.bandwidthShare(server, now + 24_000)).toBe(300_000)
    expect(registry.bandwidthShare(registry.releaseSlot(server, 'b'), now + 24_000)).toBe(450_000)
    expect(registry.bandwidthShare(server, now + registry.SLOT_LEASE_MS)).toBe(450_000)
    expect(registry.bandwidthShare({ ...server, bandwidth: null }, now)).toBeNull()
  })
})

describe('a connection that is kept after its work', () => {
  const holding = (change: Partial<registry.ServerRecord> = {}) =>
    fresh({ slots: [{ ...slot, kind: 'transfer', at: now, until: now + 1 }], ...change } as never)

  test('goes on with its slot renewed', () => {
    expect(registry.keepSlot(holding(), slot.id, now)!.slots[0]!.until).toBeGreaterThan(now + 1)
  })

  test('is given back where a new one would not be given: paused, removed, failing, wanted, or lost', () => {
    const refused = [
      { state: 'paused' },
      { deletedAt: now },
      { failures: 1 },
      { slotWantedUntil: now + 1 },
      { slots: [] }
    ]
    for (const change of refused) expect(registry.keepSlot(holding(change as never), slot.id, now)).toBeNull()
  })

  test('is asked for by refusals about connections, not by others', () => {
    const one = holding({ maxConnections: 1 })
    expect(registry.isInUse(registry.refusalOf(one, 'scan', now))).toBe(true)
    expect(registry.isInUse(registry.refusalOf({ ...one, slots: [], slotWantedUntil: now + 1 }, 'transfer', now))).toBe(
      true
    )
    expect(registry.isInUse(registry.refusalOf(fresh({ state: 'paused' }), 'scan', now))).toBe(false)
    expect(registry.isInUse('')).toBe(false)
  })
})

describe('the schedule', () => {
  test('a claimed scan is not due again before it ends, and the next is an interval later within five percent', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 1, noNaN: true }), (jitter) => {
        const claimed = registry.claimScan(fresh(), slot, now, jitter)
        expect(claimed.scanEpoch).toBe(1)
        expect(Math.abs(claimed.nextTickAt - now - 60_000)).toBeLessThanOrEqual(1500)
        expect(registry.isScanDue(claimed, now + registry.SCAN_LEASE_MS - 1)).toBe(false)
      })
    )
    expect(registry.isScanDue(fresh(), now)).toBe(true)
    expect(registry.isScanDue(registry.pause(fresh(), now), now)).toBe(false)
  })

  const begun = () => registry.claimScan(fresh(), slot, now, 0.5)

  test('a scan takes its connection with its claim, and goes without where none is free', () => {
    expect(begun()).toMatchObject({ scanEpoch: 1, lastScanner: 'n1/scanner', slots: [{ id: 'c1' }] })
    const full = fresh({ maxConnections: 1, slots: [{ id: 'x', holder: 'w', kind: 'transfer', until: now + 9999 }] })
    const waiting = registry.claimScan(full, slot, now, 0.5)
    expect(waiting).toMatchObject({ scanEpoch: 1, slots: [{ id: 'x' }] })
    expect(waiting.slotWantedUntil).toBeGreaterThan(now)
  })

  test('a scan that is lost with its scanner is due when its lease ends, however far the next tick is', () => {
    const nightly = registry.claimScan(fresh({ interval: 86_400 }), slot, now, 0.5)
    expect(registry.isScanDue(nightly, now + registry.SCAN_LEASE_MS - 1)).toBe(false)
    expect(registry.isScanDue(nightly, now + registry.SCAN_LEASE_MS)).toBe(true)
    const renewed = registry.renewScan(nightly, 1, 'c1', now + 10_000)!
    expect(registry.isScanDue(renewed, now + registry.SCAN_LEASE_MS)).toBe(false)
    expect(renewed.slots[0]!.until).toBe(now + 10_000 + registry.SLOT_LEASE_MS)
  })

  test('after a scan the next tick counts from its claim, and what an operator asked for meanwhile is not lost', () => {
    const summary = { startedAt: now } as registry.ScanSummary
    const done = (server: registry.ServerRecord) => registry.scanSucceeded(server, summary, null, now + 20_000)
    expect(done(begun())).toMatchObject({ nextScanAt: now + 60_000, scanLeaseUntil: 0 })
    const moved = registry.updateServer(begun(), { roots: ['/in'] }, {}, now + 1000)
    expect(registry.isScanDue(done(moved), now + 20_000)).toBe(true)
  })

  test('a scan that another one followed, or of a server that is paused, is not renewed', () => {
    expect(registry.renewScan(begun(), 2, 'c1', now)).toBeNull()
    expect(registry.renewScan(registry.pause(begun(), now), 1, 'c1', now)).toBeNull()
  })

  test('a scan that is given back is due at once, but not by an older scanner', () => {
    expect(registry.isScanDue(registry.giveScanBack(begun(), 1, now)!, now)).toBe(true)
    expect(registry.giveScanBack(begun(), 0, now)).toBeNull()
  })

  test('a failing server is left alone longer each time, up to a cap, and forgets that when it works', () => {
    let server = fresh()
    let waited = 0
    for (let n = 1; n <= 40; n++) {
      server = registry.serverFailed(server, error, false, now)
      expect(server.nextScanAt - now).toBeGreaterThanOrEqual(waited)
      waited = server.nextScanAt - now
      expect(server).toMatchObject({ failures: n, state: 'active', lastError: error })
    }
    expect(waited).toBe(20_000)
    const summary = { startedAt: now } as registry.ScanSummary
    expect(registry.scanSucceeded(server, summary, null, now)).toMatchObject({ failures: 0, lastError: null })
  })
})

describe('a schedule by cron', () => {
  const nightly = (change: Partial<registry.ServerRecord> = {}) =>
    fresh({ interval: null, cron: '0 2 * * *', timezone: 'UTC', ...change })
  const at = Date.parse('2026-11-24T12:00:00Z')
  const tick = Date.parse('2026-11-25T02:00:00Z')

  test('a claim sets the next tick, and a success keeps it', () => {
    const claimed = registry.claimScan(nightly(), slot, at, 0)
    expect(claimed.nextTickAt).toBe(tick)
    expect(registry.scanSucceeded(claimed, {} as registry.ScanSummary, null, at).nextScanAt).toBe(tick)
  })

  test('a pause is not made up for, a stopped server is tried at once', () => {
    expect(registry.resume(registry.pause(nightly(), at), at).nextScanAt).toBe(tick)
    expect(registry.resume(registry.serverFailed(nightly(), error, true, at), at).nextScanAt).toBe(at)
  })

  test('an interval takes its place and the other way round, and a time zone alone changes that of the expression', () => {
    const changed = (from: registry.ServerRecord, input: object) => registry.updateServer(from, input, {}, at)
    expect(changed(nightly(), { interval: 5 })).toMatchObject({ interval: 5, cron: null, timezone: null })
    expect(changed(nightly(), { cron: null })).toMatchObject({ interval: 60, cron: null, timezone: null })
    expect(changed(nightly(), { maxSize: 5 })).toMatchObject({ interval: null, cron: '0 2 * * *', nextScanAt: tick })
    expect(changed(nightly(), { timezone: 'Europe/Berlin' })).toMatchObject({ nextScanAt: tick - 3_600_000 })
    expect(changed(fresh(), { cron: '0 2 * * *' })).toMatchObject({ interval: null, timezone: 'UTC', nextScanAt: tick })
    expect(changed(fresh(), { interval: null, cron: null })).toMatchObject({ interval: 60, cron: null })
  })

  test('a connection that fails beside a scan does not end the lease of the scan', () => {
    const scanned = registry.claimScan(fresh(), slot, now, 0)
    expect(registry.serverFailed(scanned, error, false, now, { ended: false }).scanLeaseUntil).toBeGreaterThan(now)
    expect(registry.serverFailed(scanned, error, false, now).scanLeaseUntil).toBe(0)
  })

  test('folders that files were moved into are remembered', () => {
    const moving = registry.updateServer(fresh(), { afterUpload: { move: 'done' } }, {}, now)
    const other = registry.updateServer(moving, { afterUpload: { move: '/old' } }, {}, now)
    expect(registry.updateServer(other, { afterUpload: 'keep' }, {}, now).movedInto).toEqual(['done', '/old'])
  })
})

describe('changes by an operator', () => {
  test('a removed server keeps no secret and no slot, frees its name, and outdates its scans', () => {
    const gone = registry.tombstone(fresh({ scanEpoch: 4 }), now)
    expect(gone).toMatchObject({ secrets: {}, slots: [], state: 'stopped', scanEpoch: 5, deletedAt: now })
    expect(gone.name).not.toBe('acme')
  })

  test('a removed server is cleared away in passes, each once, until nothing can come late any more', () => {
    let gone = registry.tombstone(fresh(), now, true)
    expect(gone.removal).toEqual({ purge: true, passes: 0, dueAt: now })
    for (const afterMs of [45_000, 600_000]) {
      const { passes } = gone.removal!
      gone = registry.removalPassed(gone, passes)!
      expect(gone.removal).toEqual({ purge: true, passes: passes + 1, dueAt: now + afterMs })
      expect(registry.removalPassed(gone, passes)).toBeNull()
    }
    const done = registry.removalPassed(gone, 2)!
    expect(done).not.toHaveProperty('removal')
    expect(registry.removalPassed(done, 3)).toBeNull()
    expect(registry.tombstone(fresh(), now).removal).toMatchObject({ purge: false })
  })

  test('a new address or secret gives a stopped server another try, a new interval does not', () => {
    const stopped = registry.serverFailed(fresh(), error, true, now)
    expect(registry.updateServer(stopped, { host: 'other' }, {}, now)).toMatchObject({ state: 'active', failures: 0 })
    expect(registry.updateServer(stopped, {}, { password: sealed }, now).state).toBe('active')
    expect(registry.updateServer(stopped, { interval: 5 }, {}, now).state).toBe('stopped')
  })

  test('what scanners remember is void after every change of a policy, and not after a pause', () => {
    const server = fresh()
    expect(registry.updateServer(server, { include: ['*.csv'] }, {}, now).generation).toBe(server.generation + 1)
    expect(registry.updateServer(server, { onChange: 'version' }, {}, now).generation).toBe(server.generation + 1)
    expect(registry.resume(registry.pause(server, now), now).generation).toBe(server.generation)
  })

  test('a paused server stays paused until it is enabled', () => {
    const paused = registry.pause(fresh(), now)
    expect(registry.updateServer(paused, { host: 'other' }, {}, now).state).toBe('paused')
    expect(registry.updateServer(paused, { enabled: true }, {}, now).state).toBe('active')
    expect(registry.updateServer(fresh(), { enabled: false }, {}, now).state).toBe('paused')
  })

  test('a key takes the place of a password, and the other way round', () => {
    const keyed = registry.updateServer(fresh(), {}, { privateKey: sealed }, now)
    expect(Object.keys(keyed.secrets)).toEqual(['privateKey'])
    expect(Object.keys(registry.updateServer(keyed, {}, { password: sealed }, now).secrets)).toEqual(['password'])
  })
})
