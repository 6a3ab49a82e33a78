/**
 * In which order a server's waiting files are copied. A file's `turn` is a text that is set when it becomes pending and
 * sorts as its policy asks; claims read it from an index, so that nobody sorts the backlog.
 *
 *   "!<when>"   tried before, or by hand: comes first once its time has come
 *   "#<key>"    never tried: by age, size or name
 */
export const ORDERS = ['oldest', 'smallest', 'name'] as const
export type Order = (typeof ORDERS)[number]

const DIGITS = 16
const NAME_CHARACTERS = 200

const padded = (value: number) => String(Math.max(0, Math.round(value))).padStart(DIGITS, '0')

/** A database keeps no half of a character: what it would change is made so here, or each look would see another turn. */
const cut = (text: string) => text.slice(0, NAME_CHARACTERS).toWellFormed()

/** The turn of a file that was never tried. Files of one size go by age, and of one age by name. */
export function firstTurn(order: Order, file: { path: string; filename: string; size: number; mtime: number }): string {
  const name = cut(file.path)
  if (order === 'name') return `#${cut(file.filename)}\u0000${name}`
  return order === 'smallest' ? `#${padded(file.size)}${padded(file.mtime)}` : `#${padded(file.mtime)}${name}`
}

/** The turn of a file that is tried again at `dueAt`. */
export function laterTurn(dueAt: number): string {
  return `!${padded(dueAt)}`
}

/** Which turns may be claimed now: those of later tries whose time has come, then those that were never tried. */
export const turnsAt = (now: number) => ({ later: { $gte: '!', $lte: `!${padded(now)}` }, first: { $gte: '#' } })
