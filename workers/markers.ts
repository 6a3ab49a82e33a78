/** Which files of a folder have their marker. Marker times are ms since the epoch. */
import { createHash } from 'node:crypto'
import { isMarker, type MarkerPolicy, markerName } from '../domain/marker.ts'
import { markerPath } from '../domain/readiness.ts'
import type { ServerPolicy } from '../domain/server.ts'
import type { SftpLooks } from '../drivers/sftp/sftp.ts'

/** The time of a file's marker, by the file's name; null when there is none. */
export type Markers = (name: string) => number | null

/**
 * The markers of a folder, read before its files: a file that is listed after its marker was seen is whole. A folder
 * with markers beside its files is listed once more for them, of which 48 bits of a name's hash are kept, not the names.
 */
export async function markersOf(sftp: SftpLooks, marker: MarkerPolicy | null, folder: string): Promise<Markers> {
  if (!marker) return () => null
  if ('file' in marker) {
    const time = await timeOf(sftp, `${folder.replace(/\/$/, '')}/${marker.file}`)
    return () => time
  }
  const times = new Map<number, number>()
  for await (const page of sftp.list(folder)) {
    for (const { name, kind, badName, mtimeSeconds } of page) {
      if (badName === null && kind !== 'folder' && isMarker(marker, name)) times.set(hashOf(name), mtimeSeconds * 1000)
    }
  }
  return (name) => times.get(hashOf(markerName(marker, name))) ?? null
}

/** The same for single files; what was asked once is not asked again. */
export function markerLookup(
  sftp: SftpLooks,
  policy: Pick<ServerPolicy, 'marker'>
): (path: string) => Promise<number | null> {
  const known = new Map<string, Promise<number | null>>()
  return async (path) => {
    const marker = markerPath(policy, path)
    if (marker === null) return null
    const asked = known.get(marker) ?? timeOf(sftp, marker)
    known.set(marker, asked)
    return asked
  }
}

async function timeOf(sftp: SftpLooks, path: string): Promise<number | null> {
  try {
    const { kind, mtimeSeconds } = await sftp.lstat(path)
    return kind === 'folder' ? null : mtimeSeconds * 1000
  } catch (error) {
    const { type } = error as { type?: string }
    if (type === 'SFTP_NO_SUCH_PATH' || type === 'SFTP_PERMISSION_DENIED') return null
    throw error
  }
}

function hashOf(name: string): number {
  return createHash('sha1').update(name).digest().readUIntBE(0, 6)
}
