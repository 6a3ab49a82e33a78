import { readFile, writeFile } from 'node:fs/promises'
import { announced, claim, claimAnnouncement, finish } from '../../domain/file.ts'
import type { FileRecord } from '../../domain/file-record.ts'

/**
 * Takes every pending record of a closed embedded database to `notified`, by the state machine: copying 100,000 files is
 * another benchmark.
 */
export async function storeAll(path: string): Promise<void> {
  const lines = (await readFile(path, 'utf8')).split('\n')
  const stored = lines.map((line) => {
    if (!line.includes('"status":"pending"')) return line
    const file: FileRecord = JSON.parse(line)
    const now = Date.now()
    const held = claim({ ...file, dueAt: 0 }, 'bench', `large/${file.path}`, now)!
    const object = {
      ...{ bucket: 'b', key: held.reservedKey!, url: `http://b/${held.reservedKey}`, etag: 'e', size: file.size },
      checksum: { algorithm: 'crc32' as const, value: '00000000' }
    }
    const done = finish(held, held.epoch, { kind: 'stored', object, messageId: file._id }, now, 0)!
    return JSON.stringify(announced(claimAnnouncement(done, now)!, 1, now))
  })
  await writeFile(path, stored.join('\n'))
}
