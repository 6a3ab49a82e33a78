/**
 * The bytes of files that one process holds in memory, over all servers that it copies from.
 *
 * A file asks for what its copy holds at most, and waits until there is room. Short ones (read whole, gone in a moment)
 * and long ones (large files, under way for as long as they last) have a lane each. Neither lane takes everything, so
 * that a small file waits for small ones only; and a stay that holds some already leaves room in its lane for another
 * stay's first, so that one server's files do not wait for those of a busy one.
 *
 * In a lane the stays take turns, each in the order of its own requests. The next in turn that holds nothing and does
 * not fit yet is overtaken by nobody. What could never fit is let in when its lane is empty.
 */
import { SMALL_FILE_BYTES } from '../domain/ranges.ts'

export type Lane = 'short' | 'long'
const LANES: Lane[] = ['short', 'long']

/** Of the whole, what one lane may take. */
const LANE_SHARE = 4 / 5
/** Room for another stay's first: any small file, or a large one as it usually is. */
const FIRST_BYTES: Record<Lane, number> = { short: SMALL_FILE_BYTES, long: 12 * 1024 * 1024 }

interface Request {
  bytes: number
  begin(): void
}

/** One stay's part of the budget. */
export interface MemoryShare {
  /** Of the whole budget. */
  readonly totalBytes: number
  /** Bytes that short requests of this stay would get at once; 0 while it waits for some. */
  roomBytes(): number
  /** Whether nothing is held or waited for. */
  isEmpty(): boolean
  /** Resolves to what gives the bytes back, when there is room. Rejects with the signal's reason. */
  take(bytes: number, lane: Lane, signal?: AbortSignal): Promise<() => void>
}

export class MemoryBudget {
  readonly totalBytes: number
  /** Stays that hold or wait for something, in the order of their turns. */
  readonly #shares = new Set<Share>()

  constructor(totalBytes: number) {
    this.totalBytes = totalBytes
  }

  get heldBytes(): number {
    return this.#heldBytes('short') + this.#heldBytes('long')
  }

  join(): MemoryShare {
    return new Share({
      totalBytes: this.totalBytes,
      roomBytes: (share, lane) => this.#roomBytes(share, lane),
      changed: (share) => {
        if (share.isEmpty()) this.#shares.delete(share)
        else this.#shares.add(share)
        for (const lane of LANES) this.#admit(lane)
      }
    })
  }

  #heldBytes(lane: Lane): number {
    let sum = 0
    for (const share of this.#shares) sum += share.heldBytes[lane]
    return sum
  }

  #roomBytes(share: Share, lane: Lane): number {
    const laneBytes = this.totalBytes * LANE_SHARE - this.#heldBytes(lane)
    const leftBytes = Math.min(laneBytes, this.totalBytes - this.heldBytes)
    return Math.max(0, leftBytes - (share.heldBytes[lane] > 0 ? FIRST_BYTES[lane] : 0))
  }

  #admit(lane: Lane): void {
    for (let next = this.#next(lane); next; next = this.#next(lane)) {
      // To the end of the line.
      this.#shares.delete(next)
      this.#shares.add(next)
      next.begin(lane)
    }
  }

  #next(lane: Lane): Share | null {
    for (const share of this.#shares) {
      const [request] = share.waiting[lane]
      if (!request) continue
      if (request.bytes <= this.#roomBytes(share, lane) || this.#heldBytes(lane) === 0) return share
      if (share.heldBytes[lane] === 0) return null
    }
    return null
  }
}

interface Owner {
  totalBytes: number
  roomBytes(share: Share, lane: Lane): number
  changed(share: Share): void
}

class Share implements MemoryShare {
  readonly heldBytes: Record<Lane, number> = { short: 0, long: 0 }
  readonly waiting: Record<Lane, Request[]> = { short: [], long: [] }
  readonly #budget: Owner

  constructor(budget: Owner) {
    this.#budget = budget
  }

  get totalBytes(): number {
    return this.#budget.totalBytes
  }

  roomBytes(): number {
    return LANES.some((lane) => this.waiting[lane].length > 0) ? 0 : this.#budget.roomBytes(this, 'short')
  }

  isEmpty(): boolean {
    return LANES.every((lane) => this.heldBytes[lane] === 0 && this.waiting[lane].length === 0)
  }

  async take(bytes: number, lane: Lane, signal?: AbortSignal): Promise<() => void> {
    signal?.throwIfAborted()
    let isIn = false
    const request: Request = {
      bytes,
      begin: () => {
        isIn = true
      }
    }
    this.waiting[lane].push(request)
    this.#budget.changed(this)
    // Most are let in at once; only those that are not need to listen.
    if (!isIn) await this.#wait(request, lane, signal)
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      this.heldBytes[lane] -= bytes
      this.#budget.changed(this)
    }
  }

  #wait(request: Request, lane: Lane, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = () => {
        this.waiting[lane].splice(this.waiting[lane].indexOf(request), 1)
        this.#budget.changed(this)
        reject(signal!.reason)
      }
      request.begin = () => {
        signal?.removeEventListener('abort', abort)
        resolve()
      }
      signal?.addEventListener('abort', abort, { once: true })
    })
  }

  /** The first that waits gets its bytes. */
  begin(lane: Lane): void {
    const request = this.waiting[lane].shift()!
    this.heldBytes[lane] += request.bytes
    request.begin()
  }
}
