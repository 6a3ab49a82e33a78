/**
 * One listing of one server: page by page, never a whole folder in memory. Says nothing about what is missing in a
 * folder that it could not list to its end: only a complete listing may call a file vanished.
 */
import { createHash } from 'node:crypto'
import { IngestError, type RecordedError, recordedError } from '../domain/errors.ts'
import type { Sighting } from '../domain/file.ts'
import { OWN_PREFIX } from '../domain/filter.ts'
import { createReadiness, isMovedInto, placeOf, type Readiness, type Seen } from '../domain/readiness.ts'
import type { ScanSummary, ServerPolicy } from '../domain/server.ts'
import type { Entry, Sftp } from '../drivers/sftp/sftp.ts'
import { type Markers, markersOf } from './markers.ts'

export interface RegisterCounts {
  new: number
  settling: number
  pending: number
  skipped: number
}

export interface ScanPorts {
  register(sightings: Sighting[]): Promise<RegisterCounts>
  /** Unstored records of the server in pages, ordered by id, after the given one. */
  unstored(after: string): Promise<{ id: string; path: string }[]>
  vanished(ids: string[]): Promise<void>
  now(): number
  signal: AbortSignal
}

export interface ScanResult {
  summary: ScanSummary
  /** A root or folder that could not be listed; the others were. */
  problem: RecordedError | null
  quarantined: { folder: string; reason: string }[]
}

/** Messages between services stay below NATS's 1 MiB: batches are cut by bytes, and by count for the database's sake. */
const BATCH_BYTES = 512 * 1024
const BATCH_FILES = 500

interface Folder {
  path: string
  relative: string
  depth: number
  markers: Markers
}

/** 48 bits of a path's hash: what was seen is remembered without its name. */
function fingerprint(path: string): number {
  return createHash('sha1').update(path).digest().readUIntBE(0, 6)
}

export async function scanServer(sftp: Sftp, policy: ServerPolicy, ports: ScanPorts): Promise<ScanResult> {
  const scan = new Scan(sftp, policy, ports)
  return scan.run()
}

class Scan {
  readonly #sftp: Sftp
  readonly #policy: ServerPolicy
  readonly #ports: ScanPorts
  readonly #readiness: Readiness
  readonly #seen = new Set<number>()
  readonly #foldersSeen = new Set<string>()
  readonly #realRoots: string[] = []
  readonly #links: { path: string; relative: string; depth: number }[] = []
  readonly #counts = { listed: 0, new: 0, settling: 0, pending: 0, skipped: 0, quarantined: 0 }
  readonly #quarantined: ScanResult['quarantined'] = []
  #batch: Sighting[] = []
  #batchBytes = 0
  #problem: unknown = null

  constructor(sftp: Sftp, policy: ServerPolicy, ports: ScanPorts) {
    this.#sftp = sftp
    this.#policy = policy
    this.#ports = ports
    this.#readiness = createReadiness(policy)
  }

  async run(): Promise<ScanResult> {
    const startedAt = this.#ports.now()
    let listedRoots = 0
    for (const root of this.#policy.roots) {
      try {
        const real = await this.#sftp.realpath(root)
        this.#realRoots.push(real)
        await this.#folder(real, '', 0)
        listedRoots++
      } catch (error) {
        this.#passOver(error, `the root ${root} cannot be listed`)
      }
    }
    if (listedRoots === 0 && this.#problem) throw this.#problem
    await this.#followLinks()
    await this.#flush()
    const complete = this.#problem === null
    if (complete) await this.#markVanished()
    const summary = { ...this.#counts, startedAt, durationMs: this.#ports.now() - startedAt, complete }
    const problem = this.#problem === null ? null : recordedError(this.#problem, this.#ports.now())
    return { summary, problem, quarantined: this.#quarantined }
  }

  /** A folder that cannot be read is reported and passed over; a lost connection ends the scan. */
  #passOver(error: unknown, what: string): void {
    this.#ports.signal.throwIfAborted()
    const type = (error as { type?: string }).type ?? ''
    if (!['SFTP_NO_SUCH_PATH', 'SFTP_PERMISSION_DENIED', 'SFTP_FAILURE'].includes(type)) throw error
    this.#problem ??= new IngestError('ROOT_UNREADABLE', `${what}: ${(error as Error).message}`, { cause: error })
  }

  async #folder(path: string, relative: string, depth: number): Promise<void> {
    // A folder that is reached twice (by a link, or roots inside each other) is listed once: so no loop is endless.
    if (this.#foldersSeen.has(path)) return
    this.#foldersSeen.add(path)
    const markers = await markersOf(this.#sftp, this.#policy.marker, path)
    const below: string[] = []
    for await (const page of this.#sftp.list(path)) {
      this.#ports.signal.throwIfAborted()
      for (const entry of page) await this.#entry(entry, { path, relative, depth, markers }, below)
    }
    if (!this.#goesBelow(depth)) return
    for (const name of below) {
      const child = join(path, name)
      if (isMovedInto(this.#policy, this.#realRoots, child)) continue
      try {
        await this.#folder(child, join(relative, name), depth + 1)
      } catch (error) {
        this.#passOver(error, `the folder ${child} cannot be listed`)
      }
    }
  }

  #goesBelow(depth: number): boolean {
    return this.#policy.recursive && depth < this.#policy.maxDepth
  }

  async #entry(entry: Entry, folder: Folder, below: string[]) {
    if (entry.badName !== null) {
      this.#counts.quarantined++
      if (this.#quarantined.length < 100) this.#quarantined.push({ folder: folder.path, reason: entry.badName })
      return
    }
    const path = join(folder.path, entry.name)
    const relative = join(folder.relative, entry.name)
    let seen: Pick<Entry, 'kind' | 'sizeBytes' | 'mtimeSeconds'> = entry
    if (entry.kind === 'symlink' && this.#policy.symlinks === 'follow') {
      seen = await this.#sftp.stat(path).catch(() => entry)
    }
    if (seen.kind === 'folder' && !entry.name.startsWith(OWN_PREFIX)) {
      if (entry.kind === 'folder') below.push(entry.name)
      else if (this.#goesBelow(folder.depth)) this.#links.push({ path, relative, depth: folder.depth + 1 })
    }
    if (seen.kind !== 'file') return
    const { sizeBytes: size, mtimeSeconds } = seen
    await this.#file({ path, relative, size, mtime: mtimeSeconds * 1000, markerMtime: folder.markers(entry.name) })
  }

  /**
   * Links are followed as far as the roots reach, and after everything else: a folder that is reached without them is
   * listed under its own name, whatever the order of a listing. Each real path is followed once, so that a loop ends.
   */
  async #followLinks(): Promise<void> {
    for (const { path, relative, depth } of this.#links) {
      const real = await this.#sftp.realpath(path).catch(() => null)
      if (real === null || this.#foldersSeen.has(real)) continue
      if (isMovedInto(this.#policy, this.#realRoots, real)) continue
      if (!this.#realRoots.some((root) => real === root || real.startsWith(join(root, '')))) continue
      this.#foldersSeen.add(real)
      try {
        await this.#folder(path, relative, depth)
      } catch (error) {
        this.#passOver(error, `the folder ${path} cannot be listed`)
      }
    }
  }

  async #file(seen: Seen): Promise<void> {
    this.#counts.listed++
    const sight = this.#readiness.sight(seen)
    if (sight.kind === 'ignored') return
    this.#seen.add(fingerprint(seen.path))
    await this.#report(sight.sighting)
  }

  async #report(sighting: Sighting): Promise<void> {
    this.#batch.push(sighting)
    // As it travels: a control character in a name takes six bytes.
    this.#batchBytes += Buffer.byteLength(JSON.stringify(sighting))
    if (this.#batch.length >= BATCH_FILES || this.#batchBytes >= BATCH_BYTES) await this.#flush()
  }

  async #flush(): Promise<void> {
    if (this.#batch.length === 0) return
    const batch = this.#batch
    this.#batch = []
    this.#batchBytes = 0
    const counts = await this.#ports.register(batch)
    for (const name of ['new', 'settling', 'pending', 'skipped'] as const) this.#counts[name] += counts[name]
  }

  /**
   * What is recorded but was not seen is looked at by itself before it is called vanished. What is still there is not
   * recorded any more by the policy of today: it is skipped, with the reason.
   */
  async #markVanished(): Promise<void> {
    for (let after = ''; ; ) {
      const page = await this.#ports.unstored(after)
      const gone: string[] = []
      for (const { id, path } of page) {
        if (this.#seen.has(fingerprint(path))) continue
        const found = await this.#lookAt(path)
        if (found === 'gone') gone.push(id)
        const reason = typeof found === 'object' ? this.#whyIgnored(path, found.size, found.mtime) : null
        if (typeof found === 'object' && reason !== null) await this.#report({ path, ...found, skip: reason })
      }
      if (gone.length > 0) await this.#ports.vanished(gone)
      if (page.length === 0) return this.#flush()
      after = page.at(-1)!.id
    }
  }

  #whyIgnored(path: string, size: number, mtime: number): string | null {
    const place = placeOf(this.#policy, this.#realRoots, path)
    if (place.kind === 'ignored') return place.reason
    const sight = this.#readiness.sight({ path, relative: place.relative, size, mtime })
    return sight.kind === 'ignored' ? sight.reason : null
  }

  async #lookAt(path: string): Promise<{ size: number; mtime: number } | 'gone' | 'hidden'> {
    try {
      const follow = this.#policy.symlinks === 'follow'
      const { kind, sizeBytes, mtimeSeconds } = await (follow ? this.#sftp.stat(path) : this.#sftp.lstat(path))
      return kind === 'file' ? { size: sizeBytes, mtime: mtimeSeconds * 1000 } : 'gone'
    } catch (error) {
      const { type } = error as { type?: string }
      if (type === 'SFTP_NO_SUCH_PATH') return 'gone'
      if (type === 'SFTP_PERMISSION_DENIED') return 'hidden'
      throw error
    }
  }
}

function join(folder: string, name: string): string {
  if (folder === '') return name
  return folder.endsWith('/') ? folder + name : `${folder}/${name}`
}
