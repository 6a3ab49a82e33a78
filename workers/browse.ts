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

/** Names are at most so many bytes in one page: what crosses the network stays below its limit. */
const PAGE_BYTES = 128 * 1024

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
  const items = entries.map(({ name, kind }, index) => ({ ...whys[index]!, name, kind }))
  return { path: folder, items, lastName: isCut ? (entries.at(-1)?.name ?? null) : null, total }
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
      while (entries.length > limit || (bytes > PAGE_BYTES && entries.length > 1)) {
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
