/**
 * A worker's stay at one server: one connection slot, one connection, and the server's pending files copied through it
 * until there are none, the slot is wanted by somebody else, or the worker stops.
 *
 *   claim -> copy -> finish, `concurrency` files side by side
 *
 * A file whose lease could not be renewed in time is given up before the lease ends: its signal is aborted and nothing
 * more is written for it.
 */
import { IngestError } from '../domain/errors.ts'
import type { FileRecord, Outcome, UploadState } from '../domain/file.ts'
import { outcomeOf } from '../domain/outcome.ts'
import { SMALL_FILE_BYTES } from '../domain/ranges.ts'
import { copyFile } from '../drivers/copy.ts'
import type { Sftp } from '../drivers/sftp/sftp.ts'
import type { ObjectStore } from '../drivers/store/store.ts'

export interface DrainPorts {
  claim(limit: number): Promise<FileRecord[]>
  /** Rejects with LEASE_LOST when the file is no longer ours. */
  keepUpload(file: FileRecord, upload: UploadState | null): Promise<void>
  finish(file: FileRecord, outcome: Outcome): Promise<void>
  now(): number
}

export interface DrainOptions {
  checksum: 'crc32' | 'sha256'
  /** Files side by side over the one connection. */
  concurrency: number
  /** Aborted to give everything up at once. */
  signal: AbortSignal
}

/** Give a file up when it was not renewed for this long; a lease is 30 s. */
export const SELF_STOP_MS = 20_000

/** One file on its way. */
export interface Copying {
  file: FileRecord
  bytes: number
  startedAt: number
  renewedAt: number
  abort: AbortController
}

export class Drain {
  readonly copying = new Map<string, Copying>()
  readonly #sftp: Sftp
  readonly #store: ObjectStore
  readonly #ports: DrainPorts
  readonly #options: DrainOptions
  #leaving = false
  #failure: unknown = null

  constructor(sftp: Sftp, store: ObjectStore, ports: DrainPorts, options: DrainOptions) {
    this.#sftp = sftp
    this.#store = store
    this.#ports = ports
    this.#options = options
  }

  /** Claims nothing more; what is in flight goes on. */
  leave(): void {
    this.#leaving = true
  }

  /** The files whose lease was lost: nothing more is written for them. */
  giveUp(id: string, reason: string): void {
    this.copying.get(id)?.abort.abort(new IngestError('LEASE_LOST', reason))
  }

  /**
   * Copies until nothing is left. Resolves to the number of files; rejects with the failure of the connection when it
   * was lost (the files in flight have been handed back).
   */
  async run(): Promise<number> {
    let done = 0
    const inFlight = new Set<Promise<void>>()
    const { concurrency, signal } = this.#options
    for (;;) {
      const isOpen = !this.#leaving && !signal.aborted && !this.#sftp.closed.aborted && this.#failure === null
      const free = concurrency - inFlight.size
      const claimed = isOpen && free > 0 ? await this.#claim(free) : []
      for (const file of claimed) {
        const one = this.#copy(file).finally(() => inFlight.delete(one))
        inFlight.add(one)
        done++
      }
      if (inFlight.size === 0) break
      // Small files come and go: claim again when half of the places are free, not for each.
      const enough = claimed.length === free && isOpen ? Math.floor(concurrency / 2) : inFlight.size - 1
      while (inFlight.size > enough) await Promise.race(inFlight)
    }
    if (this.#failure !== null) throw this.#failure
    if (this.#sftp.closed.aborted) throw this.#sftp.closed.reason
    return done
  }

  /** Where nothing can be claimed, because `files` is away, what is in flight still travels to its end. */
  async #claim(limit: number): Promise<FileRecord[]> {
    try {
      return await this.#ports.claim(limit)
    } catch {
      this.leave()
      return []
    }
  }

  async #copy(file: FileRecord): Promise<void> {
    const abort = new AbortController()
    const now = this.#ports.now()
    const copying: Copying = { file, bytes: 0, startedAt: now, renewedAt: now, abort }
    this.copying.set(file._id, copying)
    let hasProgressed = false
    try {
      const outcome = await copyFile(this.#sftp, this.#store, {
        file,
        checksum: this.#options.checksum,
        signal: AbortSignal.any([this.#options.signal, abort.signal, this.#sftp.closed]),
        onBytes: (bytes) => {
          copying.bytes += bytes
        },
        keepUpload: async (upload) => {
          await this.#ports.keepUpload(file, upload)
          hasProgressed ||= (upload?.parts.length ?? 0) > 0
          copying.renewedAt = this.#ports.now()
        },
        stillOurs: async () => {
          abort.signal.throwIfAborted()
          const age = this.#ports.now() - copying.renewedAt
          if (age > SELF_STOP_MS) throw new IngestError('LEASE_LOST', `not renewed for ${age} ms`)
        }
      })
      await this.#ports.finish(file, outcome)
    } catch (error) {
      await this.#failed(file, this.#causeOf(error, abort.signal), hasProgressed)
    } finally {
      this.copying.delete(file._id)
    }
  }

  /** A copy that was broken off fails in many ways; the reason that it was broken off for is the one to tell. */
  #causeOf(error: unknown, aborted: AbortSignal): unknown {
    if (aborted.aborted) return aborted.reason
    if (this.#options.signal.aborted) return this.#options.signal.reason
    if (this.#sftp.closed.aborted && this.#sftp.closed.reason) return this.#sftp.closed.reason
    return error
  }

  async #failed(file: FileRecord, error: unknown, progressed: boolean): Promise<void> {
    const outcome = outcomeOf(error, this.#ports.now(), progressed)
    if (!outcome) return
    if (outcome.kind === 'deferred' && (error as IngestError).type?.startsWith('STORE_')) this.#failure ??= error
    // Where this cannot be said the lease runs out, and the file is rescued.
    await this.#ports.finish(file, outcome).catch(() => undefined)
  }
}

/** How many small files travel side by side: enough to hide the round trip, within what one worker may hold in memory. */
export function concurrencyFor(latencyMs: number): number {
  const most = Math.floor((64 * 1024 * 1024) / SMALL_FILE_BYTES)
  return Math.min(most, latencyMs > 5 ? most : 8)
}
