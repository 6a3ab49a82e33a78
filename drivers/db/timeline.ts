/**
 * The timeline in the database: one document a series (resolution, and a server or all of them) and bucket.
 *
 * What happens is counted in memory and added every few seconds, so that a file's own writes cost nothing more. A
 * batch that could not be written is tried again as it is: each document remembers the last batch of each writer, so
 * that one whose answer was lost is not added twice. Only a killed process forgets what it had not written yet.
 */
import { IngestError } from '../../domain/errors.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import {
  addTallies,
  bucketStart,
  noTallies,
  RESOLUTIONS,
  type Resolution,
  SPANS,
  type Tallies,
  type Tally,
  talliesOf,
  type Window
} from '../../domain/timeline.ts'
import type { Collection, Document, Index } from './collection.ts'

export interface TimelineRecord extends Document {
  series: string
  /** Where the bucket begins; ms since the epoch. */
  start: number
  expiresAt: number
  tallies: Tallies
  /** The last batch of each writer that is in `tallies`; the newest writers only. */
  batches: { writer: string; batch: number }[]
}

export const timelineIndexes: Index[] = [{ fields: { series: 1, start: 1 } }, { fields: { expiresAt: 1 } }]

const PORTION = 500
const ROUNDS = 50
const WRITERS = 20

type Delta = Pick<TimelineRecord, '_id' | 'series' | 'start' | 'expiresAt' | 'tallies'>

export class Timeline {
  readonly #buckets: Collection<TimelineRecord>
  readonly #writer: string
  #counted = new Map<string, Delta>()
  #writing: Delta[] = []
  #batch = 0
  #flushing: Promise<void> | null = null

  /** `writer` names this object among all that write to the collection, now and before. */
  constructor(buckets: Collection<TimelineRecord>, writer: string) {
    this.#buckets = buckets
    this.#writer = writer
  }

  /** Counts a change of state that was written; `from` is null for a new record. Runs with every write: it makes no garbage. */
  note(from: FileRecord | null, to: FileRecord): void {
    const happened = talliesOf(from, to)
    if (happened.length === 0) return
    for (const resolution of RESOLUTIONS) {
      const start = bucketStart(resolution, to.updatedAt)
      this.#count(seriesOf(resolution), resolution, start, happened, to.size)
      this.#count(seriesOf(resolution, to.serverId), resolution, start, happened, to.size)
    }
  }

  #count(series: string, resolution: Resolution, start: number, happened: Tally[], bytes: number): void {
    const _id = `${series}/${start}`
    let delta = this.#counted.get(_id)
    if (!delta) {
      delta = { _id, series, start, expiresAt: start + SPANS[resolution].keptMs, tallies: noTallies() }
      this.#counted.set(_id, delta)
    }
    for (const tally of happened) {
      delta.tallies[tally].count++
      delta.tallies[tally].bytes += bytes
    }
  }

  /** Writes what was counted. Rejects when the database is away; nothing is lost then. */
  flush(): Promise<void> {
    this.#flushing ??= this.#flush().finally(() => {
      this.#flushing = null
    })
    return this.#flushing
  }

  async #flush(): Promise<void> {
    while (this.#writing.length > 0 || this.#counted.size > 0) {
      if (this.#writing.length === 0) {
        this.#writing = [...this.#counted.values()]
        this.#counted = new Map()
        this.#batch++
      }
      while (this.#writing.length > 0) {
        await this.#add(this.#writing.slice(0, PORTION))
        this.#writing = this.#writing.slice(PORTION)
      }
    }
  }

  async #add(deltas: Delta[]): Promise<void> {
    const mine = { writer: this.#writer, batch: this.#batch }
    let open = deltas
    for (let round = 0; open.length > 0; round++) {
      if (round === ROUNDS) throw new IngestError('CONFLICT', 'the timeline is changed by too many writers at once')
      const there = new Map((await this.#buckets.findByIds(open.map(({ _id }) => _id))).map((one) => [one._id, one]))
      const missing = open.filter(({ _id }) => !there.has(_id))
      await this.#buckets.insertNew(missing.map((delta) => ({ ...delta, revision: 0, batches: [mine] })))
      const pairs = open.flatMap((delta) => {
        const from = there.get(delta._id)
        if (!from || hasBatch(from, mine)) return []
        const others = from.batches.filter(({ writer }) => writer !== mine.writer).slice(1 - WRITERS)
        const to = { ...from, tallies: addTallies(from.tallies, delta.tallies), batches: [...others, mine] }
        return [{ from, to }]
      })
      const written = await this.#buckets.replaceEach(pairs)
      const lost = new Set(pairs.filter((_, index) => !written[index]).map(({ from }) => from._id))
      // Whoever was faster with a new bucket: whether it was us is seen in the next round.
      open = open.filter(({ _id }) => lost.has(_id) || !there.has(_id))
    }
  }

  /** Every bucket of the window in its order, also those in which nothing happened. */
  async read(window: Window, serverId?: string): Promise<{ at: number; tallies: Tallies }[]> {
    const { resolution, since, until } = window
    const query = { series: seriesOf(resolution, serverId), start: { $gte: since, $lt: until } }
    const found = new Map((await this.#buckets.find(query)).map((bucket) => [bucket.start, bucket.tallies]))
    const buckets: { at: number; tallies: Tallies }[] = []
    for (let at = since; at < until; at += SPANS[resolution].bucketMs)
      buckets.push({ at, tallies: found.get(at) ?? noTallies() })
    return buckets
  }

  /** Drops what is kept no longer, at most a portion; answers how many. */
  async prune(now: number): Promise<number> {
    const query = { expiresAt: { $lt: now } }
    const old = await this.#buckets.find(query, { limit: PORTION, omit: ['tallies', 'batches'] })
    return old.length === 0 ? 0 : this.#buckets.removeByIds(old.map(({ _id }) => _id))
  }
}

const seriesOf = (resolution: string, serverId = '') => `${resolution}/${serverId}`

function hasBatch(bucket: TimelineRecord, { writer, batch }: { writer: string; batch: number }): boolean {
  return bucket.batches.some((one) => one.writer === writer && one.batch >= batch)
}

/** The collection with every document that it writes told to `changed`. */
export function watched<T extends Document>(
  collection: Collection<T>,
  changed: (from: T | null, to: T) => void
): Collection<T> {
  return {
    ...collection,
    async insertNew(documents) {
      const inserted = await collection.insertNew(documents)
      const open = new Set(inserted)
      for (const document of documents) if (open.delete(document._id)) changed(null, document)
      return inserted
    },
    async replaceEach(pairs) {
      const written = await collection.replaceEach(pairs)
      pairs.forEach(({ from, to }, index) => {
        if (written[index]) changed(from, to)
      })
      return written
    }
  }
}
