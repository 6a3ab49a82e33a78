/**
 * Reports stored files in batches: one call and one write of the database for what ended within a few milliseconds or
 * while the last report was under way.
 *
 *   idle --first--> gathering --> reporting --> idle, or gathering for longer when more has come meanwhile
 */

import type { Outcome } from '../domain/file.ts'
import type { FileRecord } from '../domain/file-record.ts'

export interface Finished {
  file: FileRecord
  outcome: Outcome
}

/** A file alone waits for this too, so it is short; while one report follows another more may gather. */
const GATHER_MS = 2
const BUSY_GATHER_MS = 15
/** A report is one message of the network: at some 700 bytes a file, far below its limit. */
const AT_MOST = 200

interface Waiting extends Finished {
  resolve(): void
  reject(error: unknown): void
}

export class Finisher {
  readonly #report: (finished: Finished[]) => Promise<void>
  #waiting: Waiting[] = []
  #isBusy = false

  constructor(report: (finished: Finished[]) => Promise<void>) {
    this.#report = report
  }

  /** Resolves when the report with this file was taken; rejects as that report does. */
  finish(file: FileRecord, outcome: Outcome): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ file, outcome, resolve, reject })
      this.#gather(GATHER_MS)
    })
  }

  #gather(forMs: number): void {
    if (this.#isBusy || this.#waiting.length === 0) return
    this.#isBusy = true
    setTimeout(() => void this.#send(), forMs)
  }

  async #send(): Promise<void> {
    const batch = this.#waiting.splice(0, AT_MOST)
    try {
      await this.#report(batch.map(({ file, outcome }) => ({ file, outcome })))
      for (const { resolve } of batch) resolve()
    } catch (error) {
      for (const { reject } of batch) reject(error)
    } finally {
      this.#isBusy = false
      this.#gather(BUSY_GATHER_MS)
    }
  }
}
