import { mkdir, realpath, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals'
import type { PunctualityReport } from '../../bench/scanning/punctuality.ts'
import { registeredServer } from '../../bench/scanning/registered.ts'
import { type Side, startSide } from '../../bench/scanning/side.ts'
import { storeAll } from '../../bench/scanning/store-all.ts'
import type { ScanSummary, ServerRecord } from '../../domain/server.ts'
import { SCAN_LEASE_MS } from '../../domain/server.ts'
import { type NatsServer, startNats } from '../support/nats.ts'
import { type Sshd, startSshd } from '../support/openssh.ts'
import { temporaryFolder } from '../support/process.ts'
import { waitFor } from '../support/wait.ts'

const DAY_MS = 86_400_000

/** `servers` and `files` in one process, scanners in others: the sides of the benchmark. */
describe('scanners beside servers and files', () => {
  let nats: NatsServer
  let scratch: { path: string; remove(): Promise<void> }
  let sides: Side[] = []
  let owners: Side
  let encryptionKey: string
  let number = 0

  beforeAll(async () => {
    nats = await startNats()
  })
  afterAll(async () => {
    await nats?.stop()
  })
  beforeEach(async () => {
    scratch = await temporaryFolder('scanners')
    await mkdir(join(scratch.path, 'owners'))
    await startOwners()
  })
  afterEach(async () => {
    for (const side of sides.reverse()) await side.stop().catch(() => side.kill())
    sides = []
    await scratch.remove()
  })

  const start = async (script: string, job: object) => {
    const side = startSide(script)
    sides.push(side)
    return { side, answer: await side.ask<string>('start', { natsUrl: nats.url, ...job }) }
  }
  const startOwners = async () => {
    const started = await start('owners-side.ts', { dataDir: join(scratch.path, 'owners') })
    owners = started.side
    encryptionKey = started.answer
  }
  const startScanner = async (nodeID: string) => {
    const dataDir = join(scratch.path, `${nodeID}-${++number}`)
    await mkdir(dataDir)
    const cost = { cpuMs: 1, latencyMs: 15_000, files: 3 }
    return (await start('scanner-side.ts', { dataDir, nodeID, encryptionKey, cost })).side
  }
  const punctuality = () => owners.ask<PunctualityReport>('punctuality')

  describe('a folder on OpenSSH', () => {
    let sshd: Sshd
    let folder: string

    beforeEach(async () => {
      sshd = await startSshd()
      folder = await realpath(sshd.root)
    })
    afterEach(async () => {
      await sshd.stop()
    })

    const put = async (from: number, count: number) => {
      for (let index = from; index < from + count; index++) await writeFile(join(folder, `file-${index}`), `${index}`)
    }
    /** The calls to the database that one scan made, those of every ticker included. */
    const scan = async () => {
      await owners.ask('reset')
      const params = { id: 'partner', wait: true }
      const summary = await owners.ask<ScanSummary>('call', { action: 'scanner.scan', params })
      const calls = await owners.ask<Record<string, number>>('databaseCalls')
      const all = Object.values(calls).reduce((sum, one) => sum + one, 0)
      return { summary, all, asked: calls['files.findByIds'] ?? 0 }
    }

    test('that has not changed asks the database nothing, until a file comes or the policy changes', async () => {
      await put(0, 1_200)
      const scanner = await startScanner('scanner')
      await scanner.ask('meet')
      const { host, port, username, privateKey } = sshd
      const body = { host, port, username, roots: [folder], interval: 86_400 }
      const server = registeredServer('partner', body, { privateKey }, encryptionKey)
      await owners.ask('insertServers', [{ ...server, nextScanAt: Date.now() + DAY_MS }])
      expect((await scan()).summary).toMatchObject({ listed: 1_200, new: 1_200, pending: 1_200 })
      // Nothing is remembered that is not stored: all batches are asked about again, of 64, 128, 256, 500 and 252 files.
      expect((await scan()).asked).toBe(5)

      await owners.stop()
      await storeAll(join(scratch.path, 'owners', 'files.db'))
      await startOwners()
      await scanner.ask('meet')
      expect(await scan()).toMatchObject({ summary: { new: 0, complete: true }, asked: 5 })
      const unchanged = await scan()
      expect(unchanged).toMatchObject({ summary: { listed: 1_200, new: 0, complete: true }, asked: 0 })
      expect(unchanged.all).toBeLessThanOrEqual(20)

      await put(1_200, 2)
      expect(await scan()).toMatchObject({ summary: { listed: 1_202, new: 2, pending: 2 }, asked: 1 })

      const change = { id: 'partner', input: { exclude: ['*.bak'] }, secrets: {} }
      await owners.ask('call', { action: 'servers.update', params: change })
      expect((await scan()).asked).toBe(5)
      expect((await scan()).asked).toBe(1)
      await scanner.stop()
      await (await startScanner('another')).ask('meet')
      // It knows nothing, and the result is the same.
      expect(await scan()).toMatchObject({ summary: { listed: 1_202, new: 0, complete: true }, asked: 5 })
    })
  })

  const simulated = (count: number): ServerRecord[] =>
    Array.from({ length: count }, (_, index) => {
      const body = { host: `simulated-${index}`, username: 'u', interval: 60 }
      return registeredServer(`server-${index}`, body, { password: 'p' }, encryptionKey)
    })

  test('the scans of a killed one are begun again by another within a lease', async () => {
    const scanners = [await startScanner('one'), await startScanner('two')]
    await owners.ask('insertServers', simulated(80))
    await waitFor(async () => (await punctuality()).scans === 80, { what: 'all scans to begin' })
    const { byScanner } = await punctuality()
    const [ofOne = 0, ofTwo = 0] = [byScanner['one/scanner'], byScanner['two/scanner']]
    await scanners[ofOne > ofTwo ? 0 : 1]!.kill()
    const held = Math.max(ofOne, ofTwo)
    await waitFor(async () => (await punctuality()).takenOver === held, {
      what: `${held} scans to be taken over`
    })
    expect((await punctuality()).takenOverAfterMs).toBeLessThan(2 * SCAN_LEASE_MS)
  })

  test('the scans of one that stops are given back, and begin again at once', async () => {
    const one = await startScanner('one')
    await owners.ask('insertServers', simulated(5))
    await waitFor(async () => (await punctuality()).scans === 5, { what: 'all scans to begin' })
    await startScanner('two')
    await one.stop()
    const stoppedAt = Date.now()
    await waitFor(async () => (await punctuality()).byScanner['two/scanner'] === 5, {
      what: 'the other one to begin them'
    })
    // Sooner than their leases would have ended.
    expect(Date.now() - stoppedAt).toBeLessThan(SCAN_LEASE_MS)
  })

  test('a server goes back to the scanner that knows it, while that one lives', async () => {
    await startScanner('one')
    // Spread, so that the ticks of both come between: without affinity they would share them.
    const quick = simulated(30).map((server, index) => ({
      ...server,
      interval: 20,
      nextScanAt: Date.now() + index * 300
    }))
    await owners.ask('insertServers', quick)
    await waitFor(async () => (await punctuality()).scans === 30, { what: 'all scans to begin' })
    await startScanner('two')
    await waitFor(async () => (await punctuality()).scans >= 60, { what: 'a second round' })
    expect((await punctuality()).byScanner).toEqual({ 'one/scanner': expect.any(Number) })
  })
})
