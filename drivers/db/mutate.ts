/** Read, compute, compare-and-set, and again when somebody was faster: how every single record is changed. */
import { setTimeout as delay } from 'node:timers/promises'
import { IngestError } from '../../domain/errors.ts'
import type { Collection, Document } from './collection.ts'

const MAX_TRIES = 50

/**
 * Applies `change` to the stored document; the new document, or null when there is none or `change` refused with null.
 * Throws CONFLICT when 50 tries in a row lost against other writers.
 */
export async function mutate<T extends Document>(
  collection: Collection<T>,
  id: string,
  change: (current: T) => T | null
): Promise<T | null> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const [from] = await collection.findByIds([id])
    if (!from) return null
    const to = change(from)
    if (!to) return null
    if (to === from) return from
    const [written] = await collection.replaceEach([{ from, to }])
    if (written) return { ...to, revision: from.revision + 1 }
    // Writers that lost wait a moment, not all the same one.
    await delay(Math.random() * Math.min(50, 2 ** tries))
  }
  throw new IngestError('CONFLICT', `the record ${id} is changed by too many writers at once; try again`)
}
