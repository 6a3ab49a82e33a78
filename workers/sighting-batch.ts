/** What a scan saw and does not know, on its way to `files` in batches. */
import type { Sighting } from '../domain/readiness.ts'
import { Fingerprints, fingerprint, indexIn } from './fingerprints.ts'
import type { KnownFiles } from './known-files.ts'

export interface RegisterCounts {
  new: number
  settling: number
  pending: number
  skipped: number
}

export interface RegisterAnswer extends RegisterCounts {
  /** Which of the sightings (by their place in the batch) will need nothing as long as the server's generation stays. */
  atRest: number[]
  /** What was at rest until this batch changed it, as it was seen then. */
  disturbed: Sighting[]
}

export type Register = (sightings: Sighting[]) => Promise<RegisterAnswer>

/** Messages between services stay below NATS's 1 MiB: batches are cut by bytes, and by count for the database's sake. */
const BATCH_BYTES = 512 * 1024
const BATCH_FILES = 500
/** The first ones are shorter, each twice the one before: what is found is copied while the rest is registered. */
const FIRST_BATCH_FILES = 64
/** So many batches may be listed while one is registered. */
const AHEAD = 4

export class SightingBatch {
  readonly counts: RegisterCounts = { new: 0, settling: 0, pending: 0, skipped: 0 }
  readonly #register: Register
  readonly #known: KnownFiles | undefined
  /** Paths of files that may not be stored yet. */
  readonly #open = new Fingerprints()
  #openSorted: Float64Array | null = null
  #batch: Sighting[] = []
  #bytes = 0
  #batchFiles = FIRST_BATCH_FILES
  /** Of the batches that are registered or wait for it, one after the other. */
  readonly #underWay: Promise<void>[] = []
  #last: Promise<void> = Promise.resolve()
  #isOver = false

  constructor(register: Register, known?: KnownFiles) {
    this.#register = register
    this.#known = known
  }

  /** Resolves when more may be added; null where there is nothing to wait for. Rejects where a batch was not registered. */
  add(sighting: Sighting): Promise<void> | null {
    if (this.#known?.has(sighting)) return null
    this.#batch.push(sighting)
    // As it travels: a control character in a name takes six bytes.
    this.#bytes += Buffer.byteLength(JSON.stringify(sighting))
    if (this.#batch.length < this.#batchFiles && this.#bytes < BATCH_BYTES) return null
    this.#send()
    return this.#underWay.length > AHEAD ? this.#underWay.shift()! : null
  }

  /** Resolves when everything that was added is registered. */
  async flush(): Promise<void> {
    if (this.#batch.length > 0) this.#send()
    await this.#last
  }

  /** Registers nothing more, and resolves when nothing is under way. */
  async end(): Promise<void> {
    this.#isOver = true
    await this.#last.catch(() => undefined)
  }

  #send(): void {
    const batch = this.#batch
    this.#batch = []
    this.#bytes = 0
    this.#batchFiles = Math.min(BATCH_FILES, 2 * this.#batchFiles)
    this.#last = this.#last.then(() => (this.#isOver ? undefined : this.#record(batch)))
    // Whoever adds or flushes hears of it.
    this.#last.catch(() => undefined)
    this.#underWay.push(this.#last)
  }

  async #record(batch: Sighting[]): Promise<void> {
    const answer = await this.#register(batch).catch((error) => {
      this.#known?.giveUp()
      throw error
    })
    for (const name of ['new', 'settling', 'pending', 'skipped'] as const) this.counts[name] += answer[name]
    for (const sighting of answer.disturbed) this.#known?.forget(sighting)
    const atRest = new Set(answer.atRest)
    for (const [index, sighting] of batch.entries()) {
      if (atRest.has(index)) this.#known?.remember(sighting)
      else this.#open.add(fingerprint(sighting.path))
    }
  }

  /** Whether a file that is not at rest was seen; one that is may answer false. Asked when everything was added. */
  hasSeen(path: string): boolean {
    this.#openSorted ??= this.#open.sorted()
    return indexIn(this.#openSorted, fingerprint(path)) >= 0
  }
}
