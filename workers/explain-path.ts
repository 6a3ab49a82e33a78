/** Why the entries of one folder are taken or not: an ordinary scan of a narrowed view of the server. */
import type { Explained, Why } from '../domain/explain.ts'
import { placeOf, type Sighting } from '../domain/readiness.ts'
import type { ServerPolicy } from '../domain/server.ts'
import type { Entry, SftpLooks } from '../drivers/sftp/sftp.ts'
import { asFolder, entryAt, narrowed } from './narrow.ts'
import { previewScan } from './preview.ts'
import type { RegisterCounts } from './sighting-batch.ts'

/** What registering would do; the reasons are in the order of the sightings. */
export interface Preview {
  counts: RegisterCounts
  whys: Why[]
}

export interface ExplainPorts {
  preview(sightings: Sighting[]): Promise<Preview>
  /** What the latest record of a path says, or null. */
  recorded(path: string): Promise<{ why: string; nextAt: number | null; file: Why['file'] } | null>
  signal: AbortSignal
}

/** The roots as the policy names them and as the server does; one that cannot be resolved is not among them. */
export type Roots = { given: string; real: string }[]

export async function resolveRoots(sftp: SftpLooks, policy: ServerPolicy): Promise<Roots> {
  const roots: Roots = []
  for (const given of policy.roots) {
    const real = await sftp.realpath(given).catch((error) => {
      if (isOfPath(error)) return null
      throw error
    })
    if (real !== null) roots.push({ given, real })
  }
  return roots
}

/** A path as scans name it: one below a root that is a link gets the root's real name. */
export function asScanned(roots: Roots, path: string): string {
  const root = roots.find(({ given }) => asFolder(path).startsWith(asFolder(given)))
  const isReal = roots.some(({ real }) => asFolder(path).startsWith(asFolder(real)))
  if (!root || isReal) return path
  const below = path.slice(asFolder(root.given).length)
  return below === '' ? root.real : asFolder(root.real) + below
}

/** `path` is absolute and normal. Rejects where the server cannot be asked at all. */
export async function explainPath(
  sftp: SftpLooks,
  policy: ServerPolicy,
  path: string,
  ports: ExplainPorts
): Promise<Explained> {
  const roots = await resolveRoots(sftp, policy)
  const scanned = asScanned(roots, path)
  if (roots.some(({ real }) => real === scanned)) return { ...told(scanned), verdict: 'folder', why: 'a root, scanned' }
  try {
    const entry = await entryAt(sftp, scanned)
    if (!entry) return await missing(scanned, ports)
    const folder = scanned.slice(0, Math.max(1, scanned.lastIndexOf('/')))
    const [why] = await explainEntries(sftp, policy, { roots, folder, entries: [entry] }, ports)
    return why!
  } catch (error) {
    if (!isOfPath(error)) throw error
    return { ...told(scanned), verdict: 'unreadable', why: (error as Error).message }
  }
}

async function missing(path: string, ports: ExplainPorts): Promise<Explained> {
  const record = await ports.recorded(path)
  const known = record ? `its record: ${record.why}` : 'and there is no record of it'
  const { nextAt = null, file = null } = record ?? {}
  return { ...told(path), nextAt, file, verdict: 'missing', why: `there is no such file on the server; ${known}` }
}

/** In the order of the entries, which are of `folder`. */
export async function explainEntries(
  sftp: SftpLooks,
  policy: ServerPolicy,
  place: { roots: Roots; folder: string; entries: Entry[] },
  ports: ExplainPorts
): Promise<Explained[]> {
  const { roots, folder, entries } = place
  const found = new Map<string, Explained>()
  const tell = (one: Explained) => found.set(asScanned(roots, one.path), one)
  const view = await narrowed(sftp, policy, folder, entries)
  await previewScan(view, policy, { ...ports, tell, unstored: async () => [] }).catch((error) => {
    // Every root is unreadable: that was told.
    if (error.type !== 'ROOT_UNREADABLE') throw error
  })
  const realRoots = roots.map(({ real }) => real)
  return entries.map((entry) => {
    const path = asFolder(folder) + entry.name
    const attributes = { path, size: entry.sizeBytes, mtime: entry.mtimeSeconds * 1000 }
    const why = found.get(path) ?? byItsFolder(found, path) ?? byItsPlace(policy, realRoots, path)
    return { ...why, ...attributes }
  })
}

/** No scan comes to what lies in a folder that it passes over. */
function byItsFolder(found: Map<string, Explained>, path: string): Explained | null {
  for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) {
    const folder = found.get(path.slice(0, end))
    if (folder && folder.verdict !== 'folder') return { ...folder, why: `its folder ${folder.path}: ${folder.why}` }
  }
  return null
}

function byItsPlace(policy: ServerPolicy, roots: string[], path: string): Explained {
  const root = roots.find((one) => asFolder(one).startsWith(asFolder(path)))
  if (root !== undefined) {
    return { ...told(path), verdict: 'folder', why: root === path ? 'a root, scanned' : `holds the root ${root}` }
  }
  const place = placeOf(policy, roots, path)
  return { ...told(path), why: place.kind === 'ignored' ? place.reason : 'scans do not come here' }
}

/** Of a path that no scan told of. */
function told(path: string): Explained {
  return { path, size: null, mtime: null, verdict: 'ignored', why: '', nextAt: null, file: null }
}

/** The path cannot be used; the server itself can. */
function isOfPath(error: unknown): boolean {
  const { type = '' } = error as { type?: string }
  return type === 'SFTP_NO_SUCH_PATH' || type === 'SFTP_PERMISSION_DENIED' || type === 'SFTP_FAILURE'
}
