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

/**
 * The same for many documents at once, those that lost again. Answers the new documents; those that are not there, or
 * that `change` refused with null, are not among them. `key` tells which document an item is about.
 */
export async function mutateEach<T extends Document, I>(
  collection: Collection<T>,
  items: I[],
  key: (item: I) => string,
  change: (current: T, item: I) => T | null
): Promise<T[]> {
  const changed: T[] = []
  let open = items
  for (let tries = 0; open.length > 0; tries++) {
    if (tries === MAX_TRIES)
      throw new IngestError('CONFLICT', `${key(open[0]!)} and others are changed by too many writers`)
    if (tries > 0) await delay(Math.random() * Math.min(50, 2 ** tries))
    const stored = new Map((await collection.findByIds(open.map(key))).map((one) => [one._id, one]))
    const pairs: { from: T; to: T; item: I }[] = []
    for (const item of open) {
      const from = stored.get(key(item))
      const to = from ? change(from, item) : null
      if (from && to) pairs.push({ from, to, item })
    }
    const written = pairs.length > 0 ? await collection.replaceEach(pairs) : []
    open = []
    for (const [index, { from, to, item }] of pairs.entries()) {
      if (written[index]) changed.push({ ...to, revision: from.revision + 1 })
      else open.push(item)
    }
  }
  return changed
}
