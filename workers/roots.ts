import type { Sftp } from '../drivers/sftp/sftp.ts'

/** The roots as scans resolve them, by which records have their paths; one that is not there holds no files. */
export async function resolveRoots(sftp: Sftp, roots: string[]): Promise<string[]> {
  const resolve = (root: string) =>
    sftp.realpath(root).catch((error) => {
      if (error.type === 'SFTP_NO_SUCH_PATH') return null
      throw error
    })
  return (await Promise.all(roots.map(resolve))).filter((root) => root !== null)
}
