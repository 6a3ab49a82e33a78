import { realpath } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { ServiceBroker } from 'moleculer'
import { loadConfig } from '../../config.ts'
import { IngestError } from '../../domain/errors.ts'
import { SCAN_AGAIN_MS, type ScanSummary, type ServerRecord } from '../../domain/server.ts'
import { parseNewServer } from '../../domain/server-input.ts'
import { seal } from '../../drivers/secrets.ts'
import { scannerService } from '../../services/scanner.service.ts'
import { serversService } from '../../services/servers.service.ts'
import { cleanEnvironment } from '../support/longshore.ts'
import { type Sshd, startSshd } from '../support/openssh.ts'
import { temporaryFolder } from '../support/process.ts'

let folder: { path: string; remove(): Promise<void> }
let sshd: Sshd
let broker: ServiceBroker
let fault: Error | null = null

beforeAll(async () => {
  folder = await temporaryFolder('outage')
  sshd = await startSshd()
  const config = loadConfig({ ...cleanEnvironment, DATA_DIR: folder.path, ALLOW_NETWORKS: '127.0.0.0/8' })
  broker = new ServiceBroker({ logger: false })
  broker.createService(serversService(config))
  broker.createService(scannerService(config))
  broker.createService({
    name: 'files',
    actions: {
      unstored() {
        if (fault) throw fault
        return []
      },
      claimLooks: () => [],
      claimAfterUploads: () => []
    }
  })
  await broker.start()
  const { host, port, username, privateKey } = sshd
  const roots = [await realpath(sshd.root)]
  const { input } = parseNewServer({ name: 'partner', host, port, username, privateKey, roots, interval: 86_400 })
  const secrets = { privateKey: seal(config.encryptionKey, privateKey, 'partner:privateKey') }
  await broker.call('servers.create', { id: 'partner', input, secrets })
})
afterAll(async () => {
  await broker.stop()
  await sshd.stop()
  await folder.remove()
})

const scan = () =>
  broker.call<ScanSummary & { error?: { type: string } }, object>('scanner.scan', { id: 'partner', wait: true })
const partner = () => broker.call<ServerRecord, object>('servers.get', { id: 'partner' })

test('a scan that a fault of Longshore ended is told to who waits, blames no server, and is due again soon', async () => {
  await scan()
  fault = new IngestError('DATABASE_UNAVAILABLE', 'the database is away')
  expect(await scan()).toMatchObject({ listed: 0, error: { type: 'DATABASE_UNAVAILABLE' } })
  const server = await partner()
  expect(server).toMatchObject({ failures: 0, lastError: null, scanLeaseUntil: 0, slots: [] })
  const dueInMs = server.nextScanAt - Date.now()
  expect(dueInMs).toBeGreaterThan(0)
  expect(dueInMs).toBeLessThanOrEqual(SCAN_AGAIN_MS)

  fault = new IngestError('ROOT_UNREADABLE', 'a fault of the server')
  expect(await scan()).toMatchObject({ error: { type: 'ROOT_UNREADABLE' } })
  expect(await partner()).toMatchObject({ failures: 1, lastError: { type: 'ROOT_UNREADABLE' } })
})
