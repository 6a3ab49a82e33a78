/** The list of file records, in pages, as the gateway and the console show it. */
import { IngestError } from '../../domain/errors.ts'
import type { FileRecord, FileStatus } from '../../domain/file-record.ts'
import type { Collection, Query } from './collection.ts'

export interface ListFilter {
  serverId?: string
  statuses?: FileStatus[]
  /** A path prefix, or a glob when it holds `*` or `?`. */
  path?: string
  since?: number
  until?: number
  cursor?: string
  limit: number
}

/** Newest first; the cursor is the place of the last item, so that inserts shift nothing. */
export async function pageOf(
  files: Collection<FileRecord>,
  filter: ListFilter
): Promise<{ items: Omit<FileRecord, 'history'>[]; nextCursor: string | null }> {
  const and: Query[] = []
  if (filter.serverId) and.push({ serverId: filter.serverId })
  if (filter.statuses) and.push({ status: { $in: filter.statuses } })
  if (filter.path) and.push(pathQuery(filter.path))
  if (filter.since !== undefined) and.push({ createdAt: { $gte: filter.since } })
  if (filter.until !== undefined) and.push({ createdAt: { $lt: filter.until } })
  if (filter.cursor) and.push(afterCursor(filter.cursor))
  const query = and.length > 0 ? { $and: and } : {}
  const options = { sort: { createdAt: -1, _id: -1 } as const, limit: filter.limit + 1, omit: ['history'] }
  const found = await files.find(query, options)
  const items = found.slice(0, filter.limit)
  const last = items.at(-1)
  return { items, nextCursor: found.length > filter.limit && last ? cursorOf(last) : null }
}

function cursorOf(file: { createdAt: number; _id: string }): string {
  return Buffer.from(`${file.createdAt}:${file._id}`).toString('base64url')
}

function afterCursor(cursor: string): Query {
  const match = /^(\d{1,16}):([\w-]{1,64})$/.exec(Buffer.from(cursor, 'base64url').toString('utf8'))
  if (!match)
    throw new IngestError('INVALID', 'cursor: take nextCursor of the page before', { data: { field: 'cursor' } })
  const createdAt = Number(match[1])
  return { $or: [{ createdAt: { $lt: createdAt } }, { createdAt, _id: { $lt: match[2] } }] }
}

/**
 * A prefix, or a glob of `*` (also across folders) and `?`. Both as an anchored expression: MongoDB makes a range of its
 * index of the literal head, and unlike a range it means the same in any order of strings.
 * What stands between two stars is taken where it comes first and never given back, `(?=(…))\1`: nothing backtracks far.
 */
function pathQuery(path: string): Query {
  if (!/[*?]/.test(path)) return { path: new RegExp(`^${literal(path)}`) }
  const [start, ...pieces] = path.split(/\*+/).map((piece) => piece.split('?').map(literal).join('[\\s\\S]'))
  if (pieces.length > 8) {
    throw new IngestError('INVALID', 'path: at most 8 stars in a pattern', { data: { field: 'path' } })
  }
  const end = pieces.pop()
  const middle = pieces.map((piece, index) => `(?=([\\s\\S]*?${piece}))\\${index + 1}`).join('')
  return { path: new RegExp(`^${start}${middle}${end === undefined ? '' : `[\\s\\S]*${end}`}$`) }
}

function literal(text: string): string {
  return text.replace(/[.+^${}()|[\]\\*?]/g, '\\$&')
}
