/**
 * One million files over 1,000 folders, on a server that is scripted at the border of the SFTP driver; what is found is
 * counted where `files` would record it. The scanner is a process of its own, over NATS.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { ScanSummary } from '../../domain/server.ts'
import { startNats } from '../../test/support/nats.ts'
import { temporaryFolder } from '../../test/support/process.ts'
import type { Finding } from './finding.ts'
import { registeredServer } from './registered.ts'
import { startSide, type Usage } from './side.ts'

const FILES = 1_000_000

export async function scanMillionFiles(): Promise<Finding[]> {
  const scratch = await temporaryFolder('scan')
  const nats = await startNats()
  const [owners, scanner] = [startSide('owners-side.ts'), startSide('scanner-side.ts')]
  try {
    const folder = async (name: string) => {
      await mkdir(join(scratch.path, name))
      return join(scratch.path, name)
    }
    const natsUrl = nats.url
    const encryptionKey = await owners.ask<string>('start', {
      dataDir: await folder('owners'),
      natsUrl,
      isStandIn: true
    })
    await scanner.ask('start', { dataDir: await folder('scanner'), natsUrl, nodeID: 'scanner', encryptionKey })
    const body = { host: 'million', username: 'u', interval: 86_400 }
    const server = registeredServer('million', body, { password: 'p' }, encryptionKey)
    await owners.ask('insertServers', [{ ...server, nextScanAt: Date.now() + 86_400_000 }])

    const scan = async () => {
      await scanner.ask('reset')
      const params = { id: 'million', wait: true }
      const summary = await owners.ask<ScanSummary>('call', { action: 'scanner.scan', params })
      const told = await owners.ask<{ batches: number; sightings: number }>('call', {
        action: 'files.counts',
        params: {}
      })
      const used = await scanner.ask<Usage>('usage')
      console.log(`scan: ${JSON.stringify({ summary, told, used })}`)
      if (summary.listed !== FILES) throw new Error(`${summary.listed} files were listed`)
      return { rate: FILES / (summary.durationMs / 1000), told, used }
    }
    await scanner.ask('meet')
    const first = await scan()
    // The stand-in says of everything that it needs nothing more, and from then on it is known.
    await scan()
    const known = await scan()
    return [
      { what: 'names a second, all new', value: first.rate, unit: 'names/s', note: `${first.told.batches} batches` },
      {
        what: 'names a second, all known',
        value: known.rate,
        unit: 'names/s',
        note: `${known.told.sightings} asked about`
      },
      { what: 'files not reported', value: FILES - first.told.sightings, unit: 'files', atMost: 0 },
      { what: 'peak memory of the scanner, all new', value: first.used.peakRssMB, unit: 'MB', atMost: 200 },
      {
        what: 'peak memory of the scanner, a million remembered',
        value: known.used.peakRssMB,
        unit: 'MB',
        atMost: 200
      },
      {
        what: 'longest stall of its event loop',
        value: Math.max(first.used.longestStallMs, known.used.longestStallMs),
        unit: 'ms'
      }
    ]
  } finally {
    await scanner.stop().catch(() => scanner.kill())
    await owners.stop().catch(() => owners.kill())
    await nats.stop()
    await scratch.remove()
  }
}
