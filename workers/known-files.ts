/**
 * The files that a scanner knows to need nothing, so that a listing without news asks the database nothing.
 *
 * What is remembered is a sighting (path, size, mtime, why it is skipped) of which `files` said that it changed nothing
 * and never will as long as the server's `generation` stays. The database decides about everything else, and the result
 * is the same when all of this is forgotten at any time. A memory is of use to the next scan of the server only when
 *   - no other scanner has scanned it in between (its scan has the very next epoch), and
 *   - the server's generation has not moved: a policy was changed, or a stored record was opened again or removed;
 * and every few hours a scan asks about everything again, whatever was remembered.
 */
import type { Sighting } from '../domain/readiness.ts'
import { Fingerprints, fingerprint, indexIn, merged } from './fingerprints.ts'

const nothing = new Float64Array(0)

function fingerprintOf({ path, size, mtime, skip }: Sighting): number {
  return fingerprint(`${path}\0${size}\0${mtime}\0${skip ?? ''}`)
}

/** What is known during one scan, and what the scan finds out. */
export class KnownFiles {
  readonly #known: Float64Array
  readonly #seen: Uint32Array
  readonly #learned = new Fingerprints()
  readonly #outdated = new Set<number>()
  #seenCount = 0
  #isUnsure = false

  /** Sorted fingerprints from the scan before. */
  constructor(known: Float64Array = nothing) {
    this.#known = known
    this.#seen = new Uint32Array(Math.ceil(known.length / 32))
  }

  /** Whether nothing has to be asked about it. */
  has(sighting: Sighting): boolean {
    if (this.#known.length === 0) return false
    const one = fingerprintOf(sighting)
    const index = indexIn(this.#known, one)
    if (index < 0 || this.#outdated.has(one)) return false
    const bit = 1 << (index & 31)
    const word = index >>> 5
    if ((this.#seen[word]! & bit) === 0) {
      this.#seen[word]! |= bit
      this.#seenCount++
    }
    return true
  }

  /** `files` said that there is nothing to do for it. */
  remember(sighting: Sighting): void {
    this.#learned.add(fingerprintOf(sighting))
  }

  /** The record that this was known of has changed. */
  forget(sighting: Sighting): void {
    this.#outdated.add(fingerprintOf(sighting))
  }

  /** It is not known what `files` did: what was known of the files before may be wrong now. */
  giveUp(): void {
    this.#isUnsure = true
  }

  /** What the next scan may know. `complete`: what was not seen is gone from the server, and from here. */
  result(complete: boolean): Float64Array {
    if (this.#isUnsure) return nothing
    const keepsAll = this.#outdated.size === 0 && (!complete || this.#seenCount === this.#known.length)
    if (keepsAll && this.#learned.length === 0) return this.#known
    const isKept = (one: number) => !this.#outdated.has(one)
    const wasSeen = (index: number) => (this.#seen[index >>> 5]! & (1 << (index & 31))) !== 0
    const kept = keepsAll
      ? this.#known
      : this.#known.filter((one, index) => isKept(one) && (!complete || wasSeen(index)))
    const learned = this.#learned.sorted()
    return merged(kept, this.#outdated.size === 0 ? learned : learned.filter(isKept))
  }
}

interface Memory {
  files: Float64Array
  generation: number
  scanEpoch: number
  /** When everything is asked about again; ms since the epoch. */
  reconcileAt: number
}

export interface Scanned {
  serverId: string
  generation: number
  scanEpoch: number
}

export interface KnownServersOptions {
  /** Of all servers together; the ones that were scanned longest ago are forgotten first. */
  maxBytes: number
  /** Everything is asked about again after about this time. */
  reconcileMs: number
  /** In [0, 1): spreads the reconciling of many servers. */
  random?: () => number
}

/** What a scanner knows of the files of all servers that it scans. */
export class KnownServers {
  readonly #options: KnownServersOptions
  /** In the order of their last scans. */
  readonly #memories = new Map<string, Memory>()
  #bytes = 0

  constructor(options: KnownServersOptions) {
    this.#options = options
  }

  get bytes(): number {
    return this.#bytes
  }

  /** What may be known during this scan; nothing where it could be wrong. */
  begin({ serverId, generation, scanEpoch }: Scanned, now: number): KnownFiles {
    const memory = this.#memories.get(serverId)
    const holds = memory?.generation === generation && memory.scanEpoch === scanEpoch - 1 && now < memory.reconcileAt
    if (memory && !holds && memory.scanEpoch < scanEpoch) this.forget(serverId)
    return new KnownFiles(holds ? memory.files : nothing)
  }

  /** Keeps what a scan knows at its end. */
  end({ serverId, generation, scanEpoch }: Scanned, files: Float64Array, now: number): void {
    const before = this.#memories.get(serverId)
    // A scan that lost its lease may end after its successor.
    if (before && before.scanEpoch >= scanEpoch) return
    const { maxBytes, reconcileMs, random = Math.random } = this.#options
    const reconcileAt = before?.reconcileAt ?? now + reconcileMs * (0.75 + random() / 2)
    this.forget(serverId)
    if (files.byteLength > maxBytes) return
    this.#memories.set(serverId, { files, generation, scanEpoch, reconcileAt })
    this.#bytes += files.byteLength
    for (const oldest of this.#memories.keys()) {
      if (this.#bytes <= maxBytes) break
      this.forget(oldest)
    }
  }

  /** A scan ended before it listed anything: what was known before it holds for the next one. */
  pass({ serverId, scanEpoch }: Scanned): void {
    const memory = this.#memories.get(serverId)
    if (memory?.scanEpoch === scanEpoch - 1) memory.scanEpoch = scanEpoch
  }

  forget(serverId: string): void {
    const memory = this.#memories.get(serverId)
    if (!memory) return
    this.#memories.delete(serverId)
    this.#bytes -= memory.files.byteLength
  }
}
