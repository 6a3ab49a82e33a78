/** After a complete listing: what has become of the files whose records wait for them and that it did not show. */
import type { Sighting } from '../domain/readiness.ts'
import type { SftpLooks } from '../drivers/sftp/sftp.ts'

export interface VanishedPorts {
  /** Records that are not stored and were not touched by this scan, in pages, ordered by id, after the given one. */
  unstored(after: string): Promise<{ id: string; path: string }[]>
  vanished(ids: string[]): Promise<void>
}

export interface Listing {
  /** Whether links are followed. */
  follows: boolean
  hasSeen(path: string): boolean
  /** Why the policy of today records no such file; null when it does. */
  whyIgnored(path: string, size: number, mtime: number): string | null
  report(sighting: Sighting): Promise<void> | null
}

/** Each takes a round trip, and waits behind what is copied over the same connection. */
const LOOKS_AT_ONCE = 32

/**
 * What is recorded but was not seen is looked at by itself before it is called vanished. What is still there is not
 * recorded any more by the policy of today: it is skipped, with the reason.
 */
export async function markVanished(sftp: SftpLooks, ports: VanishedPorts, listing: Listing): Promise<void> {
  for (let after = ''; ; ) {
    const page = await ports.unstored(after)
    const gone: string[] = []
    const unseen = page.filter(({ path }) => !listing.hasSeen(path))
    for (let at = 0; at < unseen.length; at += LOOKS_AT_ONCE) {
      const looked = unseen.slice(at, at + LOOKS_AT_ONCE)
      const looks = await Promise.all(looked.map(({ path }) => lookAt(sftp, path, listing.follows)))
      for (const [index, found] of looks.entries()) {
        const { id, path } = looked[index]!
        if (found === 'gone') gone.push(id)
        if (typeof found !== 'object') continue
        const reason = listing.whyIgnored(path, found.size, found.mtime)
        if (reason !== null) await listing.report({ path, ...found, skip: reason })
      }
    }
    if (gone.length > 0) await ports.vanished(gone)
    if (page.length === 0) return
    after = page.at(-1)!.id
  }
}

async function lookAt(
  sftp: SftpLooks,
  path: string,
  follows: boolean
): Promise<{ size: number; mtime: number } | 'gone' | 'hidden'> {
  try {
    const { kind, sizeBytes, mtimeSeconds } = await (follows ? sftp.stat(path) : sftp.lstat(path))
    return kind === 'file' ? { size: sizeBytes, mtime: mtimeSeconds * 1000 } : 'gone'
  } catch (error) {
    const { type } = error as { type?: string }
    if (type === 'SFTP_NO_SUCH_PATH') return 'gone'
    if (type === 'SFTP_PERMISSION_DENIED') return 'hidden'
    throw error
  }
}
