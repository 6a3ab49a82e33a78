/**
 * How a worker stops. Each signal is for good and comes after the one before; the times are those of the stop's budget.
 *
 *   at work --begin--> leaving --22 s--> cut --3 s--> silent
 */
import { IngestError } from '../domain/errors.ts'
import { HAND_BACK_MS, UNDER_WAY_MS } from '../stop-budget.ts'

export class Departure {
  readonly #leaving = new AbortController()
  readonly #cut = new AbortController()
  readonly #silent = new AbortController()
  #timer: NodeJS.Timeout | undefined

  /** Nothing is claimed or begun any more. */
  get leaving(): AbortSignal {
    return this.#leaving.signal
  }

  /** What has not ended does not go on. */
  get cut(): AbortSignal {
    return this.#cut.signal
  }

  /** What could not be told is told no more. */
  get silent(): AbortSignal {
    return this.#silent.signal
  }

  get hasBegun(): boolean {
    return this.leaving.aborted
  }

  /** The time of what is on its way counts from the first call. */
  begin(): void {
    if (this.hasBegun) return
    this.#leaving.abort(new IngestError('CANCELLED', 'the worker is stopping'))
    this.#timer = setTimeout(() => {
      this.#timer = setTimeout(() => this.#silent.abort(), HAND_BACK_MS)
      this.#cut.abort(
        new IngestError('CANCELLED', `not at its end ${UNDER_WAY_MS / 1000} s after the worker was told to stop`)
      )
    }, UNDER_WAY_MS)
  }

  /** Nothing is on its way any more. */
  end(): void {
    clearTimeout(this.#timer)
  }
}
