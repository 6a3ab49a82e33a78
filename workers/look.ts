/** A second look at settling files between scans: one lstat each. */
import type { Sighting } from '../domain/file.ts'
import { createFilter } from '../domain/filter.ts'
import type { ServerPolicy } from '../domain/server.ts'
import type { Sftp } from '../drivers/sftp/sftp.ts'

/** Looks at `paths`; `gone` are those that are no longer there. A file that the policy no longer takes is left to the next scan. */
export async function lookAgain(sftp: Sftp, policy: ServerPolicy, paths: string[]) {
  const filter = createFilter(policy)
  const seen: Sighting[] = []
  const gone: string[] = []
  for (const path of paths) {
    try {
      const attributes = policy.symlinks === 'follow' ? await sftp.stat(path) : await sftp.lstat(path)
      if (attributes.kind !== 'file') continue
      const verdict = filter.file(belowRoot(policy.roots, path), attributes.sizeBytes)
      if (verdict.kind === 'ignored') continue
      const skip = verdict.kind === 'skipped' ? verdict.reason : null
      seen.push({ path, size: attributes.sizeBytes, mtime: attributes.mtimeSeconds * 1000, skip })
    } catch (error) {
      if ((error as { type?: string }).type === 'SFTP_NO_SUCH_PATH') gone.push(path)
      else if ((error as { type?: string }).type !== 'SFTP_PERMISSION_DENIED') throw error
    }
  }
  return { seen, gone }
}

/** The path below the root that holds it, without a leading slash. */
function belowRoot(roots: string[], path: string): string {
  const root = roots.find((one) => one === '/' || path.startsWith(`${one.replace(/\/$/, '')}/`)) ?? '/'
  return path.slice(root.replace(/\/$/, '').length + 1)
}
