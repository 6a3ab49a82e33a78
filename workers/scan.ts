/**
 * One listing of one server: page by page, never a whole folder in memory. Says nothing about what is missing in a
 * folder that it could not list to its end: only a complete listing may call a file vanished.
 */
import { IngestError, type RecordedError, recordedError } from '../domain/errors.ts'
import { OWN_PREFIX } from '../domain/filter.ts'
import { createReadiness, isMovedInto, placeOf, type Readiness } from '../domain/readiness.ts'
import type { ScanSummary, ServerPolicy } from '../domain/server.ts'
import type { Attributes, Entry, EntryKind, SftpLooks } from '../drivers/sftp/sftp.ts'
import type { KnownFiles } from './known-files.ts'
import { type Markers, markersOf } from './markers.ts'
import { type Register, SightingBatch } from './sighting-batch.ts'
import { markVanished, type VanishedPorts } from './vanished.ts'

export interface ScanPorts extends VanishedPorts {
  register: Register
  /** What needs no asking; absent: everything is registered. */
  known?: KnownFiles
  /** Told when nothing is left to be listed, while the last of it may not be registered yet. */
  listed?(): void
  /** Told of what gets no sighting, and why; only where somebody asks for reasons. */
  passedOver?(entry: PassedOver): void
  now(): number
  signal: AbortSignal
}

export interface PassedOver {
  path: string
  verdict: 'ignored' | 'quarantined' | 'folder' | 'unreadable'
  why: string
}

export interface ScanResult {
  summary: ScanSummary
  /** A root or folder that could not be listed; the others were. */
  problem: RecordedError | null
  quarantined: { folder: string; reason: string }[]
}

interface Folder {
  path: string
  relative: string
  depth: number
  markers: Markers
}

export async function scanServer(sftp: SftpLooks, policy: ServerPolicy, ports: ScanPorts): Promise<ScanResult> {
  const scan = new Scan(sftp, policy, ports)
  return scan.run()
}

class Scan {
  readonly #sftp: SftpLooks
  readonly #policy: ServerPolicy
  readonly #ports: ScanPorts
  readonly #readiness: Readiness
  readonly #batch: SightingBatch
  readonly #foldersSeen = new Set<string>()
  readonly #realRoots: string[] = []
  readonly #links: { path: string; relative: string; depth: number }[] = []
  #listed = 0
  #quarantinedCount = 0
  readonly #quarantined: ScanResult['quarantined'] = []
  #problem: unknown = null

  constructor(sftp: SftpLooks, policy: ServerPolicy, ports: ScanPorts) {
    this.#sftp = sftp
    this.#policy = policy
    this.#ports = ports
    this.#readiness = createReadiness(policy)
    this.#batch = new SightingBatch(ports.register, ports.known)
  }

  async run(): Promise<ScanResult> {
    try {
      return await this.#run()
    } finally {
      await this.#batch.end()
    }
  }

  async #run(): Promise<ScanResult> {
    const startedAt = this.#ports.now()
    let listedRoots = 0
    for (const root of this.#policy.roots) {
      try {
        const real = await this.#sftp.realpath(root)
        this.#realRoots.push(real)
        await this.#folder(real, '', 0)
        listedRoots++
      } catch (error) {
        this.#passOver(error, root, `the root ${root} cannot be listed`)
      }
    }
    if (listedRoots === 0 && this.#problem) throw this.#problem
    await this.#followLinks()
    this.#ports.listed?.()
    await this.#batch.flush()
    const complete = this.#problem === null
    if (complete) await this.#markVanished()
    const counts = { listed: this.#listed, ...this.#batch.counts, quarantined: this.#quarantinedCount }
    const summary = { ...counts, startedAt, durationMs: this.#ports.now() - startedAt, complete }
    const problem = this.#problem === null ? null : recordedError(this.#problem, this.#ports.now())
    return { summary, problem, quarantined: this.#quarantined }
  }

  /** A folder that cannot be read is reported and passed over; a lost connection ends the scan. */
  #passOver(error: unknown, path: string, what: string): void {
    this.#ports.signal.throwIfAborted()
    const type = (error as { type?: string }).type ?? ''
    if (!['SFTP_NO_SUCH_PATH', 'SFTP_PERMISSION_DENIED', 'SFTP_FAILURE'].includes(type)) throw error
    this.#ports.passedOver?.({ path, verdict: 'unreadable', why: `cannot be listed: ${(error as Error).message}` })
    this.#problem ??= new IngestError('ROOT_UNREADABLE', `${what}: ${(error as Error).message}`, { cause: error })
  }

  async #folder(path: string, relative: string, depth: number): Promise<void> {
    // A folder that is reached twice (by a link, or roots inside each other) is listed once: so no loop is endless.
    if (this.#foldersSeen.has(path)) return
    this.#foldersSeen.add(path)
    const markers = await markersOf(this.#sftp, this.#policy.marker, path)
    const folder: Folder = { path, relative, depth, markers }
    const below: string[] = []
    for await (const page of this.#sftp.list(path)) {
      this.#ports.signal.throwIfAborted()
      for (const entry of page) {
        // Of the entries of a large folder few have to be waited for.
        const waiting = this.#entry(entry, folder, below)
        if (waiting) await waiting
      }
    }
    if (!this.#goesBelow(depth)) return
    for (const name of below) {
      const child = join(path, name)
      if (isMovedInto(this.#policy, this.#realRoots, child)) continue
      try {
        await this.#folder(child, join(relative, name), depth + 1)
      } catch (error) {
        this.#passOver(error, child, `the folder ${child} cannot be listed`)
      }
    }
  }

  #goesBelow(depth: number): boolean {
    return this.#policy.recursive && depth < this.#policy.maxDepth
  }

  #entry(entry: Entry, folder: Folder, below: string[]): Promise<void> | null {
    if (entry.badName !== null) {
      this.#quarantinedCount++
      if (this.#quarantined.length < 100) this.#quarantined.push({ folder: folder.path, reason: entry.badName })
      const why = `quarantined: its name is ${entry.badName}`
      this.#ports.passedOver?.({ path: join(folder.path, entry.name), verdict: 'quarantined', why })
      return null
    }
    if (entry.kind === 'symlink' && this.#policy.symlinks === 'follow') return this.#link(entry, folder)
    if (entry.kind !== 'file') this.#tellOf(entry.kind, folder, entry.name)
    if (entry.kind === 'folder' && !entry.name.startsWith(OWN_PREFIX)) below.push(entry.name)
    return entry.kind === 'file' ? this.#file(folder, entry.name, entry) : null
  }

  async #link({ name }: Entry, folder: Folder): Promise<void> {
    const path = join(folder.path, name)
    const target = await this.#sftp.stat(path).catch(() => null)
    if (target?.kind === 'file') await this.#file(folder, name, target)
    else this.#tellOf(target?.kind ?? 'symlink', folder, name)
    if (target?.kind !== 'folder' || name.startsWith(OWN_PREFIX) || !this.#goesBelow(folder.depth)) return
    this.#links.push({ path, relative: join(folder.relative, name), depth: folder.depth + 1 })
  }

  /**
   * Links are followed as far as the roots reach, and after everything else: a folder that is reached without them is
   * listed under its own name, whatever the order of a listing. Each real path is followed once, so that a loop ends.
   */
  async #followLinks(): Promise<void> {
    for (const { path, relative, depth } of this.#links) {
      const real = await this.#sftp.realpath(path).catch(() => null)
      const why = this.#whyNotFollowed(real)
      if (why !== null) this.#ports.passedOver?.({ path, verdict: 'ignored', why: `a link ${why}` })
      if (real === null || why !== null) continue
      this.#foldersSeen.add(real)
      try {
        await this.#folder(path, relative, depth)
      } catch (error) {
        this.#passOver(error, path, `the folder ${path} cannot be listed`)
      }
    }
  }

  #file(folder: Folder, name: string, { sizeBytes: size, mtimeSeconds }: Attributes): Promise<void> | null {
    this.#listed++
    const [path, relative] = [join(folder.path, name), join(folder.relative, name)]
    const seen = { path, relative, size, mtime: mtimeSeconds * 1000, markerMtime: folder.markers(name) }
    const sight = this.#readiness.sight(seen)
    if (sight.kind === 'seen') return this.#batch.add(sight.sighting)
    this.#ports.passedOver?.({ path, verdict: 'ignored', why: sight.reason })
    return null
  }

  #whyNotFollowed(real: string | null): string | null {
    if (real === null) return 'that leads nowhere'
    if (this.#foldersSeen.has(real)) return `to ${real}, which is scanned under another name`
    if (isMovedInto(this.#policy, this.#realRoots, real)) return 'into a folder that afterUpload moves files into'
    const isInside = this.#realRoots.some((root) => real === root || real.startsWith(join(root, '')))
    return isInside ? null : `to ${real}, outside the roots`
  }

  /** Says what is made of anything but a regular file. */
  #tellOf(kind: EntryKind, folder: Folder, name: string): void {
    if (!this.#ports.passedOver) return
    const path = join(folder.path, name)
    const place = kind === 'folder' ? placeOf(this.#policy, this.#realRoots, join(path, '')) : null
    const link = this.#policy.symlinks === 'follow' ? 'a link that leads nowhere' : 'a link, and symlinks is "skip"'
    if (place?.kind === 'inside') this.#ports.passedOver({ path, verdict: 'folder', why: 'scanned' })
    else {
      const why = place ? place.reason : kind === 'symlink' ? link : 'not a regular file'
      this.#ports.passedOver({ path, verdict: 'ignored', why })
    }
  }

  async #markVanished(): Promise<void> {
    await markVanished(this.#sftp, this.#ports, {
      follows: this.#policy.symlinks === 'follow',
      hasSeen: (path) => this.#batch.hasSeen(path),
      whyIgnored: (path, size, mtime) => this.#whyIgnored(path, size, mtime),
      report: (sighting) => this.#batch.add(sighting)
    })
    await this.#batch.flush()
  }

  #whyIgnored(path: string, size: number, mtime: number): string | null {
    const place = placeOf(this.#policy, this.#realRoots, path)
    if (place.kind === 'ignored') return place.reason
    const sight = this.#readiness.sight({ path, relative: place.relative, size, mtime })
    return sight.kind === 'ignored' ? sight.reason : null
  }
}

function join(folder: string, name: string): string {
  if (folder === '') return name
  return folder.endsWith('/') ? folder + name : `${folder}/${name}`
}
