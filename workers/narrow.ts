/**
 * A server as it looks to somebody who only asks about some entries of one folder: a listing on the way to the folder
 * shows nothing but the way, one of the folder nothing but these entries and their markers. So an explanation is an
 * ordinary scan that sees little, by the same rules.
 */
import { markerPath } from '../domain/readiness.ts'
import type { ServerPolicy } from '../domain/server.ts'
import { badName } from '../drivers/sftp/listing.ts'
import type { Entry, SftpLooks } from '../drivers/sftp/sftp.ts'

/** `folder` is absolute and without a slash at its end, but for the root; `entries` are of it. */
export async function narrowed(
  sftp: SftpLooks,
  policy: Pick<ServerPolicy, 'marker'>,
  folder: string,
  entries: Entry[]
): Promise<SftpLooks> {
  const shown = [...entries, ...(await markersBeside(sftp, policy, folder, entries))]
  async function* list(path: string): AsyncGenerator<Entry[]> {
    // Of a page of folders, what is in them is not asked.
    if (entries.length > 1 && path !== folder && path.startsWith(asFolder(folder))) return
    // Also where little of it is shown: a folder that cannot be listed is one whose files no scan sees.
    for await (const _page of sftp.list(path)) break
    if (path === folder) {
      if (shown.length > 0) yield shown
      return
    }
    const next = nextOnTheWay(path, folder)
    const entry = next === null ? null : await entryAt(sftp, asFolder(path) + next)
    if (entry) yield [entry]
  }
  return {
    list,
    realpath: (path) => sftp.realpath(path),
    stat: (path) => sftp.stat(path),
    lstat: (path) => sftp.lstat(path)
  }
}

async function markersBeside(
  sftp: SftpLooks,
  policy: Pick<ServerPolicy, 'marker'>,
  folder: string,
  entries: Entry[]
): Promise<Entry[]> {
  const listed = new Set(entries.map(({ name }) => asFolder(folder) + name))
  const files = entries.filter(({ kind, badName }) => kind !== 'folder' && badName === null)
  const paths = new Set(files.map(({ name }) => markerPath(policy, asFolder(folder) + name)))
  const found: Entry[] = []
  for (const path of paths) {
    const entry = path === null || listed.has(path) ? null : await entryAt(sftp, path)
    if (entry) found.push(entry)
  }
  return found
}

/** What a listing would show of one path; null where there is nothing. */
export async function entryAt(sftp: SftpLooks, path: string): Promise<Entry | null> {
  const name = path.slice(path.lastIndexOf('/') + 1)
  try {
    return { name, badName: badName(name), ...(await sftp.lstat(path)) }
  } catch (error) {
    if ((error as { type?: string }).type === 'SFTP_NO_SUCH_PATH') return null
    throw error
  }
}

function nextOnTheWay(path: string, target: string): string | null {
  return target.startsWith(asFolder(path)) ? target.slice(asFolder(path).length).split('/')[0] || null : null
}

export function asFolder(path: string): string {
  return path.endsWith('/') ? path : `${path}/`
}
