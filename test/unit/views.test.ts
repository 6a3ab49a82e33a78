import { describe, expect, test } from '@jest/globals'
import type { FileRecord } from '../../domain/file-record.ts'
import { takeSlot } from '../../domain/server.ts'
import { newServer, parseNewServer } from '../../domain/server-input.ts'
import { observe } from '../../domain/sighting.ts'
import { seal } from '../../drivers/secrets.ts'
import { fileView, scanView, serverView } from '../../rest/views.ts'

const now = 1_700_000_000_000
const at = '2023-11-14T22:13:20.000Z'
const key = Buffer.alloc(32, 1)

function server() {
  const { input, secrets } = parseNewServer({
    name: 'acme',
    host: 'h',
    username: 'u',
    privateKey: 'canary-key',
    passphrase: 'canary-phrase'
  })
  const sealed = {
    privateKey: seal(key, secrets.privateKey!, 's1:privateKey'),
    passphrase: seal(key, secrets.passphrase!, 's1:passphrase')
  }
  return takeSlot(newServer('s1', input, sealed, now), { id: 'slot', holder: 'w', kind: 'scan' }, now)!
}

describe('serverView', () => {
  test('never contains a secret, sealed or not, nor what is inside', () => {
    const shown = JSON.stringify(serverView(server()))
    expect(shown).not.toContain('canary')
    for (const { keyId, dataKey, value } of Object.values(server().secrets)) {
      for (const part of [keyId, dataKey, value]) expect(shown).not.toContain(part)
    }
    for (const field of ['secrets', 'slots', 'scanEpoch', 'scanLeaseUntil', 'revision', '_id', 'deletedAt']) {
      expect(JSON.parse(shown)).not.toHaveProperty(field)
    }
  })

  test('has every field of the input, the state, and its times as RFC 3339', () => {
    const error = { type: 'SFTP_UNREACHABLE', message: 'no', at: now }
    const shown = serverView({ ...server(), lastError: error, lastScanAt: now })
    const { input } = parseNewServer({ name: 'acme', host: 'h', username: 'u', password: 'p' })
    expect(shown).toMatchObject({ ...input, id: 's1', state: 'active', hasPassword: false, hasPrivateKey: true })
    expect(shown).toMatchObject({ nextScanAt: at, lastScanAt: at, createdAt: at, updatedAt: at, lastScan: null })
    expect(shown.lastError).toEqual({ ...error, at })
  })
})

describe('scanView', () => {
  test('shows the counts, when it began, and its error', () => {
    const counts = {
      listed: 3,
      new: 1,
      settling: 0,
      pending: 1,
      skipped: 0,
      quarantined: 0,
      durationMs: 5,
      complete: true
    }
    expect(scanView(null)).toBeNull()
    expect(scanView({ startedAt: now, ...counts })).toEqual({ startedAt: at, ...counts })
    const error = { type: 'SFTP_UNREACHABLE', message: 'no', at: now }
    expect(scanView({ startedAt: 0, ...counts, error })).toEqual({ ...counts, error: { ...error, at } })
  })
})

describe('fileView', () => {
  const rules = {
    serverId: 's1',
    serverName: 'acme',
    settle: { checks: 1, seconds: 0 },
    onChange: 'ignore' as const,
    scanEpoch: 1
  }
  const seen = observe(null, { path: '/in/a.csv', size: 10, mtime: now, skip: null }, rules, now)
  const file = (seen as { record: FileRecord }).record

  test('has what the contract names, and nothing of leases, epochs and uploads', () => {
    const { history: _, ...listed } = file
    expect(fileView(listed)).toEqual({
      afterUpload: null,
      id: file._id,
      serverId: 's1',
      serverName: 'acme',
      path: '/in/a.csv',
      filename: 'a.csv',
      version: 1,
      size: 10,
      mtime: at,
      status: 'pending',
      reason: null,
      attempts: 0,
      error: null,
      object: null,
      notification: null,
      progress: null,
      createdAt: at,
      updatedAt: at
    })
  })

  test('has its history where the record was asked for by itself', () => {
    expect(fileView(file)).toMatchObject({ history: [{ at, status: 'pending', times: 1 }], historyDropped: 0 })
  })
})
