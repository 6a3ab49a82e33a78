import { readdir, readlink } from 'node:fs/promises'

/** Paths below `root` that any process of this machine holds open, so that a leaked SFTP handle is seen on the server. */
export async function openBelow(root: string): Promise<string[]> {
  const found: string[] = []
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    const folder = `/proc/${pid}/fd`
    for (const fd of await readdir(folder).catch(() => [])) {
      const path = await readlink(`${folder}/${fd}`).catch(() => '')
      if (path.startsWith(`${root}/`)) found.push(path)
    }
  }
  return found
}
