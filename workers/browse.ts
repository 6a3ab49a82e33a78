/** One folder of a server, a page at a time, each entry with its why. */
import type { Explained } from '../domain/explain.ts'
import type { ServerPolicy } from '../domain/server.ts'
import type { Entry, EntryKind, SftpLooks } from '../drivers/sftp/sftp.ts'
import { asScanned, type ExplainPorts, explainEntries, resolveRoots } from './explain-path.ts'

export interface BrowsedEntry extends Explained {
  name: string
  kind: EntryKind
}

export interface Browsed {
  path: string
  items: BrowsedEntry[]
  /** The last name of the page, when there are more. */
  lastName: string | null
  /** Entries of the whole folder. */
  total: number
}

/** Names that are held at once; a hostile server may send very long ones. */
const HELD_BYTES = 256 * 1024
/** What crosses the network stays below its limit of 1 MiB. */
const ANSWER_BYTES = 700 * 1024

/** `path` is absolute and normal. Rejects where the folder cannot be listed. */
export async function browseFolder(
  sftp: SftpLooks,
  policy: ServerPolicy,
  asked: { path: string; after: string | null; limit: number },
  ports: ExplainPorts
): Promise<Browsed> {
  const roots = await resolveRoots(sftp, policy)
  const folder = asScanned(roots, asked.path)
  const page = await firstNames(sftp.list(folder), asked.after, asked.limit, ports.signal)
  const { entries, total, isCut } = page
  const whys = await explainEntries(sftp, policy, { roots, folder, entries }, ports)
  let bytes = 0
  const items: BrowsedEntry[] = []
  for (const [index, { name, kind }] of entries.entries()) {
    const item = { ...whys[index]!, name, kind }
    bytes += Buffer.byteLength(JSON.stringify(item))
    if (bytes > ANSWER_BYTES && index > 0) break
    items.push(item)
  }
  const hasMore = isCut || items.length < entries.length
  return { path: folder, items, lastName: hasMore ? (items.at(-1)?.name ?? null) : null, total }
}

/**
 * The `limit` first names after a given one, whatever the order in which the server lists them. SFTP cannot begin in
 * the middle: every page lists the folder once, and holds a page of it.
 */
export async function firstNames(
  pages: AsyncIterable<Entry[]>,
  after: string | null,
  limit: number,
  signal: AbortSignal
): Promise<{ entries: Entry[]; total: number; isCut: boolean }> {
  const entries: Entry[] = []
  let bytes = 0
  let total = 0
  let isCut = false
  for await (const page of pages) {
    signal.throwIfAborted()
    total += page.length
    for (const entry of page) {
      if (after !== null && entry.name <= after) continue
      const place = placeFor(entries, entry.name)
      if (entries[place]?.name === entry.name) continue
      entries.splice(place, 0, entry)
      bytes += Buffer.byteLength(entry.name)
      while (entries.length > limit || (bytes > HELD_BYTES && entries.length > 1)) {
        bytes -= Buffer.byteLength(entries.pop()!.name)
        isCut = true
      }
    }
  }
  return { entries, total, isCut }
}

/** Where a name belongs among sorted ones. */
function placeFor(entries: Entry[], name: string): number {
  let low = 0
  let high = entries.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (entries[middle]!.name < name) low = middle + 1
    else high = middle
  }
  return low
}
