/** How far a copy has come, and how fast it goes. */
export interface CopyProgress {
  bytes: number
  bytesPerSecond: number
}

/** A copy that is over sooner is not told of: thousands of small files would be thousands of writes for nothing. */
const FIRST_AFTER_MS = 1_000
/** Of the newest rate; the rest is what was told before, so that a pause of a moment does not show as a stop. */
const NEW_WEIGHT = 0.5

export class ProgressMeter {
  readonly #startedAt: number
  readonly #sizeBytes: number
  #bytes = 0
  #told: { at: number; bytes: number; rate: number | null }

  constructor(sizeBytes: number, startedAt: number) {
    this.#sizeBytes = sizeBytes
    this.#startedAt = startedAt
    this.#told = { at: startedAt, bytes: 0, rate: null }
  }

  /** A range that was read twice counts once, as far as can be seen. */
  get bytes(): number {
    return Math.min(this.#bytes, this.#sizeBytes)
  }

  add(bytes: number): void {
    this.#bytes += bytes
  }

  /** Bytes that an earlier attempt has stored: they count, but were not read now. */
  addKept(bytes: number): void {
    this.#bytes += bytes
    this.#told.bytes += bytes
  }

  /** Whether there is something new to tell, at most once in `everyMs`. */
  isDue(now: number, everyMs: number): boolean {
    if (now - this.#startedAt < FIRST_AFTER_MS || this.#bytes === this.#told.bytes) return false
    return this.#told.rate === null || now - this.#told.at >= everyMs
  }

  /** What to tell now; the rate is since it was told last. */
  tell(now: number): CopyProgress {
    const { at, bytes, rate } = this.#told
    const newest = ((this.#bytes - bytes) * 1000) / Math.max(1, now - at)
    const next = rate === null ? newest : rate + NEW_WEIGHT * (newest - rate)
    this.#told = { at: now, bytes: this.#bytes, rate: next }
    return { bytes: this.bytes, bytesPerSecond: Math.round(next) }
  }
}
