/** Folders page by page, and what SFTP says about a path in Longshore's words. Names and attributes are hostile input. */
import type { FileEntryWithStats, SFTPWrapper } from 'ssh2'
import { IngestError } from '../../domain/errors.ts'
import { requestError, requestTimeout } from './errors.ts'
import type { Operations } from './operations.ts'
import type { Attributes, Entry, EntryKind } from './sftp.ts'

/** READDIRs that may be under way at once, where the server answers them in order; hides the round trip of big folders. */
const maxReadAhead = 8

const statusEof = 1

interface Channel {
  sftp: SFTPWrapper
  /** Answers to pipelined requests on one handle come in order (OpenSSH's server works one request at a time). */
  ordered: boolean
  stat(path: string): Promise<Attributes>
}

/** The entries of a folder, page by page, without `.` and `..`. The handle is closed however the iteration ends. */
export async function* listPages(operations: Operations, channel: Channel, path: string): AsyncGenerator<Entry[]> {
  const { sftp } = channel
  const close = (handle: Buffer) => sftp.close(handle, () => {})
  const request = {
    translate: (error: unknown) => requestError(error, 'list', path),
    onTimeout: (timeoutMs: number) => requestTimeout('list', path, timeoutMs)
  }
  const opening = operations.run<Buffer>((done) => sftp.opendir(path, done), { ...request, late: close })
  const handle = await opening.catch(async (error) => {
    throw (await isNoFolder(channel, path, error)) ? noFolder(path) : error
  })

  const ahead: Promise<FileEntryWithStats[] | null>[] = []
  const readPage = () => {
    const page = operations.run<FileEntryWithStats[] | null>(
      (done) =>
        readPageOf(sftp)(handle, { full: true }, (error, list) =>
          error?.code === statusEof ? done(null, null) : done(error, list)
        ),
      request
    )
    page.catch(() => {})
    ahead.push(page)
  }

  try {
    for (let depth = 1; ; depth = channel.ordered ? Math.min(depth * 2, maxReadAhead) : 1) {
      while (ahead.length < depth) readPage()
      const page = await ahead.shift()!
      // Some servers end with an empty page in place of the status; going on would never end.
      if (!page || page.length === 0) return
      const entries = page.filter(({ filename }) => filename !== '.' && filename !== '..').map(toEntry)
      if (entries.length > 0) yield entries
    }
  } finally {
    await closeHandle(operations, sftp, handle, path)
  }
}

/** Of a file most servers say that it does not exist, some that it failed. */
async function isNoFolder({ stat }: Channel, path: string, error: IngestError): Promise<boolean> {
  if (error.type !== 'SFTP_NO_SUCH_PATH' && error.type !== 'SFTP_FAILURE') return false
  const seen = await stat(path).catch(() => null)
  return seen !== null && seen.kind !== 'folder'
}

function noFolder(path: string): IngestError {
  return new IngestError('SFTP_FAILURE', `Could not list ${JSON.stringify(path)}: it is a file, not a folder.`, {
    data: { path }
  })
}

type Readdir = (
  handle: Buffer,
  options: { full: boolean },
  answer: (error: { code?: unknown } | undefined, list: FileEntryWithStats[]) => void
) => void

/** READDIR as ssh2 has it and its types do not. `full` keeps it from filtering, so that an empty page is seen as one. */
function readPageOf(sftp: SFTPWrapper): Readdir {
  return (sftp.readdir as unknown as Readdir).bind(sftp)
}

/** Closes a handle and never throws: a handle that cannot be closed goes with its connection. */
export async function closeHandle(
  operations: Operations,
  sftp: SFTPWrapper,
  handle: Buffer,
  path: string
): Promise<void> {
  try {
    await operations.run<void>((done) => sftp.close(handle, (error) => done(error)), {
      translate: (error) => requestError(error, 'close', path),
      onTimeout: (timeoutMs) => requestTimeout('close', path, timeoutMs)
    })
  } catch (error) {
    if (!(error instanceof IngestError)) throw error
  }
}

/** SFTP's attributes as Longshore has them. `longname` ("drwxr-xr-x …") tells the kind where the server sends no mode. */
export function toAttributes(raw: Partial<FileEntryWithStats['attrs']>, longname = ''): Attributes {
  const mode = raw.mode ?? 0
  return {
    kind: kindOf(mode, longname),
    sizeBytes: raw.size ?? 0,
    mtimeSeconds: raw.mtime ?? 0,
    mode,
    uid: raw.uid ?? 0,
    gid: raw.gid ?? 0
  }
}

/** What is wrong with a name from a server, or null. */
export function badName(name: string): string | null {
  if (name === '') return 'empty'
  if (name === '.' || name === '..') return 'names a folder itself or its parent'
  if (name.includes('/')) return 'contains a slash'
  if (name.includes('\0')) return 'contains a NUL'
  // ssh2 decodes names itself and leaves only this trace; a name that truly holds the character is refused with them.
  if (name.includes('\ufffd')) return 'not UTF-8'
  return null
}

function toEntry(raw: FileEntryWithStats): Entry {
  return { name: raw.filename, badName: badName(raw.filename), ...toAttributes(raw.attrs, raw.longname) }
}

const kindsByMode = new Map<number, EntryKind>([
  [0o100000, 'file'],
  [0o040000, 'folder'],
  [0o120000, 'symlink']
])
const kindsByLetter: Record<string, EntryKind> = { '-': 'file', d: 'folder', l: 'symlink' }

function kindOf(mode: number, longname: string): EntryKind {
  const type = mode & 0o170000
  if (type !== 0) return kindsByMode.get(type) ?? 'other'
  return kindsByLetter[longname.charAt(0)] ?? 'other'
}
