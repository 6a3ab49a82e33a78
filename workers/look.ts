/** A second look at settling files between scans: one lstat each, and one of its marker where the policy asks for it. */

import { createReadiness, placeOf, type Sighting } from '../domain/readiness.ts'
import type { ServerPolicy } from '../domain/server.ts'
import type { Sftp } from '../drivers/sftp/sftp.ts'
import { markerLookup } from './markers.ts'
import { resolveRoots } from './roots.ts'

/**
 * Looks at `paths`, which have records; `gone` are those that are no longer there, or no files any more. One that the policy would not record
 * any more is seen as skipped, with the reason.
 */
export async function lookAgain(sftp: Sftp, policy: ServerPolicy, paths: string[]) {
  const readiness = createReadiness(policy)
  const markerOf = markerLookup(sftp, policy)
  const roots = await resolveRoots(sftp, policy.roots)
  const seen: Sighting[] = []
  const gone: string[] = []
  for (const path of paths) {
    try {
      const markerMtime = await markerOf(path)
      const attributes = policy.symlinks === 'follow' ? await sftp.stat(path) : await sftp.lstat(path)
      if (attributes.kind !== 'file') {
        gone.push(path)
        continue
      }
      const [size, mtime] = [attributes.sizeBytes, attributes.mtimeSeconds * 1000]
      const place = placeOf(policy, roots, path)
      const sight =
        place.kind === 'ignored' ? place : readiness.sight({ path, relative: place.relative, size, mtime, markerMtime })
      seen.push(sight.kind === 'ignored' ? { path, size, mtime, skip: sight.reason } : sight.sighting)
    } catch (error) {
      if ((error as { type?: string }).type === 'SFTP_NO_SUCH_PATH') gone.push(path)
      else if ((error as { type?: string }).type !== 'SFTP_PERMISSION_DENIED') throw error
    }
  }
  return { seen, gone }
}
