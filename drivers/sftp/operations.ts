/**
 * Keeps the promise that nothing asked of a connection stays unanswered. ssh2 never calls back for a request issued
 * after the connection closed, and has no timers of its own.
 *
 *   open --end(reason)--> ended     everything pending rejects with the reason, as does everything asked later
 */
import type { IngestError } from '../../domain/errors.ts'
import { cancelled } from './errors.ts'

export interface RunOptions<T> {
  /** null: the caller keeps a timer of its own. */
  timeoutMs?: number | null
  /** The error when no answer comes in time. */
  onTimeout(timeoutMs: number): IngestError
  translate(error: unknown): IngestError
  signal?: AbortSignal
  /** Takes a result that came after the promise was rejected; here a late handle is closed. */
  late?(value: T): void
}

type Done<T> = (error: unknown, value?: T) => void

export class Operations {
  readonly #closed = new AbortController()
  readonly #pending = new Set<(reason: IngestError) => void>()
  readonly timeoutMs: number

  constructor(timeoutMs: number) {
    this.timeoutMs = timeoutMs
  }

  /** Aborted once, with the reason, when the connection ends. */
  get closed(): AbortSignal {
    return this.#closed.signal
  }

  /** Idempotent; the first reason stays. */
  end(reason: IngestError): void {
    if (this.closed.aborted) return
    const pending = [...this.#pending]
    this.#pending.clear()
    this.#closed.abort(reason)
    for (const reject of pending) reject(reason)
  }

  /** Calls back when the connection ends; returns what takes the listener away. */
  onEnd(listener: (reason: IngestError) => void): () => void {
    if (this.closed.aborted) listener(this.closed.reason)
    else this.#pending.add(listener)
    return () => this.#pending.delete(listener)
  }

  /** Runs one request under a timer, the signal and the life of the connection. */
  run<T>(start: (done: Done<T>) => void, options: RunOptions<T>): Promise<T> {
    const { signal, timeoutMs = this.timeoutMs } = options
    return new Promise<T>((resolve, reject) => {
      if (this.closed.aborted) return reject(this.closed.reason)
      if (signal?.aborted) return reject(cancelled(signal))

      let settled = false
      const settle = () => {
        settled = true
        clearTimeout(timer)
        forget()
        signal?.removeEventListener('abort', abort)
      }
      const fail = (error: IngestError) => {
        if (settled) return
        settle()
        reject(error)
      }
      const abort = () => fail(cancelled(signal!))
      const timer = timeoutMs === null ? undefined : afterInput(timeoutMs, () => fail(options.onTimeout(timeoutMs)))
      const forget = this.onEnd(fail)
      signal?.addEventListener('abort', abort, { once: true })

      try {
        start((error, value) => {
          if (settled) {
            if (!error) options.late?.(value as T)
          } else if (error) {
            fail(options.translate(error))
          } else {
            settle()
            resolve(value as T)
          }
        })
      } catch (error) {
        fail(options.translate(error))
      }
    })
  }
}

/**
 * A timer that lets what has arrived be seen before it acts: after the process was stopped or its loop was blocked,
 * timers run ahead of the input that waited all along.
 */
function afterInput(delayMs: number, act: () => void): NodeJS.Timeout {
  return setTimeout(() => setImmediate(act), delayMs)
}
