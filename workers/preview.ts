/**
 * A scan that changes nothing: the scan itself, with ports that ask `files` what would happen and write nothing down.
 * What every path would come to is told one by one, so that nobody has to hold all of it.
 */
import type { Explained, Why } from '../domain/explain.ts'
import type { Sighting } from '../domain/readiness.ts'
import type { ServerPolicy } from '../domain/server.ts'
import type { SftpLooks } from '../drivers/sftp/sftp.ts'
import { type ScanResult, scanServer } from './scan.ts'
import type { RegisterCounts } from './sighting-batch.ts'

export interface PreviewPorts {
  /** What registering would do; the reasons are in the order of the sightings. */
  preview(sightings: Sighting[]): Promise<{ counts: RegisterCounts; whys: Why[] }>
  /** Unstored records of the server in pages, as a scan asks for them. */
  unstored(after: string): Promise<{ id: string; path: string }[]>
  tell(explained: Explained): void
  signal: AbortSignal
}

export function previewScan(sftp: SftpLooks, policy: ServerPolicy, ports: PreviewPorts): Promise<ScanResult> {
  const { tell, signal } = ports
  const bare = { size: null, mtime: null, nextAt: null, file: null }
  const paths = new Map<string, string>()
  return scanServer(sftp, policy, {
    signal,
    now: Date.now,
    async register(sightings) {
      const { counts, whys } = await ports.preview(sightings)
      for (const [index, { path, size, mtime }] of sightings.entries()) tell({ path, size, mtime, ...whys[index]! })
      return { ...counts, atRest: [], disturbed: [] }
    },
    passedOver: ({ path, verdict, why }) => tell({ ...bare, path, verdict, why }),
    async unstored(after) {
      const page = await ports.unstored(after)
      paths.clear()
      for (const { id, path } of page) paths.set(id, path)
      return page
    },
    async vanished(ids) {
      for (const id of ids)
        tell({ ...bare, path: paths.get(id)!, verdict: 'missing', why: 'recorded, and gone from the server' })
    }
  })
}
