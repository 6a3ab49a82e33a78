/** How late scans begin, by what is written when they are claimed. */
import { SCAN_LEASE_MS, type ServerRecord } from '../../domain/server.ts'

export interface PunctualityReport {
  scans: number
  /** Servers that were scanned at least once. */
  servers: number
  /** Scans that another scanner had to begin again. */
  takenOver: number
  latenessMs: { p50: number; p99: number; most: number }
  /** Of the scans that were lost: since their lease was last renewed. */
  takenOverAfterMs: number
  byScanner: Record<string, number>
}

export class Punctuality {
  #lateness: number[] = []
  #takenOver: number[] = []
  readonly #servers = new Set<string>()
  readonly #scanners = new Map<string, number>()
  #watched: { scanner: string; seen(): void } | null = null

  reset(): void {
    this.#lateness = []
    this.#takenOver = []
    this.#servers.clear()
    this.#scanners.clear()
  }

  /** Resolves when this scanner has claimed a scan. */
  claimBy(scanner: string): Promise<void> {
    return new Promise((seen) => {
      this.#watched = { scanner, seen }
    })
  }

  see(pairs: { from: ServerRecord; to: ServerRecord }[], written: boolean[], now: number): void {
    for (const [index, { from, to }] of pairs.entries()) {
      if (!written[index] || to.scanEpoch === from.scanEpoch) continue
      this.#servers.add(from._id)
      const scanner = to.lastScanner ?? ''
      this.#scanners.set(scanner, (this.#scanners.get(scanner) ?? 0) + 1)
      if (scanner === this.#watched?.scanner) this.#watched.seen()
      if (from.scanLeaseUntil > 0) this.#takenOver.push(now - (from.scanLeaseUntil - SCAN_LEASE_MS))
      else this.#lateness.push(now - from.nextScanAt)
    }
  }

  report(): PunctualityReport {
    const sorted = this.#lateness.toSorted((a, b) => a - b)
    const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
    return {
      scans: sorted.length + this.#takenOver.length,
      servers: this.#servers.size,
      takenOver: this.#takenOver.length,
      latenessMs: { p50: at(0.5), p99: at(0.99), most: sorted.at(-1) ?? 0 },
      takenOverAfterMs: Math.max(0, ...this.#takenOver),
      byScanner: Object.fromEntries(this.#scanners)
    }
  }
}
