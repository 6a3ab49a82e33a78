/**
 * Connections that one worker has no more use for, and another one of the same process may go on with: a scan's, for the
 * copying of what it found. Another login takes twelve round trips before the first byte of a file (`npm run bench -- latency`:
 * 0.6 s where one is 50 ms).
 *
 *   offer -> reserve -> take       the taker holds the connection too, and closes its hold by itself
 *               └─────> (nothing)  it got no slot, or wants to connect in another way
 *
 * A connection is reserved before its taker asks for a slot of its own, and the one who offers it keeps it, and its slot,
 * until all that reserved it have decided: so the server never sees more connections than there are slots.
 */
import { isDeepStrictEqual } from 'node:util'
import type { ServiceBroker } from 'moleculer'
import type { Sftp } from '../drivers/sftp/sftp.ts'
import type { ServerTarget } from './connect.ts'

interface Offer {
  target: ServerTarget
  sftp: Sftp
  undecided: Set<Promise<void>>
}

/** Ends with `take` or `drop`; all but the first of these do nothing. */
export interface Reservation {
  /** The connection, held once more, where it lives and is to this very target; else null. */
  take(target: ServerTarget): Sftp | null
  drop(): void
}

export class Handover {
  readonly #offers = new Map<string, Offer>()

  /** Answers what takes the offer back: resolves once nobody is undecided about it. Of two for one server the later stands. */
  offer(target: ServerTarget, sftp: Sftp): () => Promise<void> {
    const offer: Offer = { target, sftp, undecided: new Set() }
    this.#offers.set(target.id, offer)
    return async () => {
      if (this.#offers.get(target.id) === offer) this.#offers.delete(target.id)
      await Promise.all(offer.undecided)
    }
  }

  /** null where nothing is offered of this server. */
  reserve(serverId: string): Reservation | null {
    const offer = this.#offers.get(serverId)
    if (!offer) return null
    let isDecided = false
    const { promise: decided, resolve } = Promise.withResolvers<void>()
    offer.undecided.add(decided)
    const drop = () => {
      isDecided = true
      resolve()
      offer.undecided.delete(decided)
    }
    return {
      drop,
      take(target) {
        if (isDecided) return null
        const isUsable = isSame(offer, target) && !offer.sftp.closed.aborted
        if (isUsable) offer.sftp.retain()
        drop()
        return isUsable ? offer.sftp : null
      }
    }
  }
}

/** Whoever connected first may have pinned the key by that; the record that it went by had none then. */
function isSame({ target: { hostKey: _, ...offered }, sftp }: Offer, { hostKey, ...wanted }: ServerTarget): boolean {
  return hostKey === sftp.hostKey && isDeepStrictEqual(offered, wanted)
}

const handovers = new WeakMap<ServiceBroker, Handover>()

/** The one of this node. */
export function handoverOf(broker: ServiceBroker): Handover {
  const known = handovers.get(broker) ?? new Handover()
  handovers.set(broker, known)
  return known
}
