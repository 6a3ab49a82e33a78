/**
 * The scans that a scanner has under way, each held by a lease:
 *
 *   claimed -> renewed -> reported | given back | lost (not renewed in time, or refused): aborted
 */
import { IngestError } from '../domain/errors.ts'

/** Short scans end before it is worth a write. */
const RENEW_AFTER_MS = 8_000
/** A lease is 30 s; a scan that was not renewed for this long stops itself before somebody else begins. */
const SELF_STOP_MS = 19_000

/** One scan, as its scanner names it. */
export interface ScanHold {
  id: string
  scanEpoch: number
  /** The connection that it holds; null while it waits for one. */
  slotId: string | null
}

interface Claimed {
  target: { id: string }
  scanEpoch: number
  slotId: string | null
  failures: number
}

export interface RunningScan<Order extends Claimed> {
  order: Order
  /** The connection that the scan holds; null while it waits for one. */
  slotId: string | null
  abort: AbortController
  renewedAt: number
}

export class RunningScans<Order extends Claimed> {
  readonly #scans = new Set<RunningScan<Order>>()

  get size(): number {
    return this.#scans.size
  }

  /** Of servers whose scan before failed. */
  get failing(): number {
    let count = 0
    for (const { order } of this.#scans) if (order.failures > 0) count++
    return count
  }

  begin(order: Order, now: number): RunningScan<Order> {
    const scan = { order, slotId: order.slotId, abort: new AbortController(), renewedAt: now }
    this.#scans.add(scan)
    return scan
  }

  end(scan: RunningScan<Order>): void {
    this.#scans.delete(scan)
  }

  /** Those whose lease should be renewed by now. */
  due(now: number): ScanHold[] {
    const due = [...this.#scans].filter(({ renewedAt }) => now - renewedAt >= RENEW_AFTER_MS)
    return due.map(({ order, slotId }) => ({ id: order.target.id, scanEpoch: order.scanEpoch, slotId }))
  }

  /** `asked`: whose leases were to be renewed; `lost`: the servers whose scan is not ours any more. */
  renewed(asked: ScanHold[], lost: string[], now: number): void {
    const refused = new Set(lost)
    const epochs = new Map(asked.map(({ id, scanEpoch }) => [id, scanEpoch]))
    for (const scan of this.#scans) {
      const { target, scanEpoch } = scan.order
      if (epochs.get(target.id) !== scanEpoch) continue
      if (refused.has(target.id)) scan.abort.abort(lostTo('the scan was taken over, or the server paused or removed'))
      else scan.renewedAt = now
    }
  }

  /** Gives up what could not be renewed for too long. */
  stopStale(now: number): void {
    for (const scan of this.#scans) {
      const ageMs = now - scan.renewedAt
      if (ageMs > SELF_STOP_MS) scan.abort.abort(lostTo(`the scan's lease was not renewed for ${ageMs} ms`))
    }
  }
}

function lostTo(reason: string): IngestError {
  return new IngestError('LEASE_LOST', reason)
}
