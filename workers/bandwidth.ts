/**
 * Limits on the bytes that are read a second: one of the process, and below it one of each server.
 *
 * A bucket is a point in time, until which what was taken lasts. Who takes is told how long to wait, and is served in
 * the order of asking: nobody polls, nothing large is passed by small ones, and giving back is a subtraction. The
 * `limiter` package does not fit: it knows no cancelling, refuses more bytes than its bucket holds, and lets those who
 * wait for a parent bucket race for it.
 */
import type { Pace } from '../drivers/sftp/sftp.ts'

/** A timer may be late by so much without the limit being undershot: it is made up for. */
const SLACK_MS = 50

export class Bucket implements Pace {
  readonly #parent: Bucket | null
  readonly #nowMs: () => number
  #bytesPerSecond: number | null
  /** What was taken lasts until then. */
  #untilMs = 0

  /** `bytesPerSecond` null: only the parent's limit holds. */
  constructor(bytesPerSecond: number | null, parent: Bucket | null = null, nowMs = () => performance.now()) {
    this.#bytesPerSecond = bytesPerSecond
    this.#parent = parent
    this.#nowMs = nowMs
  }

  /** Of this limit and those above it, the lowest. */
  get bytesPerSecond(): number | null {
    const above = this.#parent?.bytesPerSecond ?? null
    if (this.#bytesPerSecond === null || above === null) return this.#bytesPerSecond ?? above
    return Math.min(this.#bytesPerSecond, above)
  }

  /** Whether nothing that was taken lasts any more. */
  get isIdle(): boolean {
    return this.#untilMs <= this.#nowMs()
  }

  /** What was taken and lasts still does so by the new rate. */
  set ownBytesPerSecond(bytesPerSecond: number | null) {
    if (bytesPerSecond === this.#bytesPerSecond) return
    const now = this.#nowMs()
    const leftMs = Math.max(0, this.#untilMs - now)
    const ratio = this.#bytesPerSecond !== null && bytesPerSecond !== null ? this.#bytesPerSecond / bytesPerSecond : 0
    this.#untilMs = now + leftMs * ratio
    this.#bytesPerSecond = bytesPerSecond
  }

  take(bytes: number): number {
    const waitMs = this.#parent?.take(bytes) ?? 0
    if (this.#bytesPerSecond === null) return waitMs
    const now = this.#nowMs()
    const fromMs = Math.max(this.#untilMs, now - SLACK_MS)
    this.#untilMs = fromMs + (bytes * 1000) / this.#bytesPerSecond
    return Math.max(waitMs, fromMs - now, 0)
  }

  giveBack(bytes: number): void {
    this.#parent?.giveBack(bytes)
    if (this.#bytesPerSecond !== null) this.#untilMs -= (bytes * 1000) / this.#bytesPerSecond
  }
}

/** The buckets of a process: one for each server that has been read from lately. */
export class Bandwidth {
  readonly #process: Bucket
  readonly #servers = new Map<string, Bucket>()

  /** `bytesPerSecond`: of the process; null: no limit. */
  constructor(bytesPerSecond: number | null) {
    this.#process = new Bucket(bytesPerSecond)
  }

  /** The server's bucket, at this rate from now on; the same one as long as something that was taken from it lasts. */
  of(serverId: string, bytesPerSecond: number | null): Bucket {
    for (const [id, bucket] of this.#servers) if (bucket.isIdle && id !== serverId) this.#servers.delete(id)
    const bucket = this.#servers.get(serverId) ?? new Bucket(bytesPerSecond, this.#process)
    bucket.ownBytesPerSecond = bytesPerSecond
    this.#servers.set(serverId, bucket)
    return bucket
  }
}
