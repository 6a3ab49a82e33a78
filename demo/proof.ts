/** The demo's proof: each source file and its stored object, by SHA-256. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join, relative } from 'node:path'
import type { FileRecord } from '../domain/file-record.ts'
import type { ObjectStore } from '../drivers/store/store.ts'

export interface Proof {
  path: string
  size: number
  status: string
  sha256: string
  equal: boolean
  seconds: number
}

async function sha256(stream: NodeJS.ReadableStream): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of stream) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/** Every file below `root`, as the server shows it: absolute, with slashes. */
export async function pathsBelow(root: string): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true })
  const files = entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
  return files.map((path) => `/${path.replaceAll('\\', '/')}`).sort()
}

/** `record`: what Longshore says of the file, or undefined when it has none. */
export async function prove(
  root: string,
  path: string,
  record: FileRecord | undefined,
  store: ObjectStore
): Promise<Proof> {
  const source = await sha256(createReadStream(join(root, path)))
  const stored = record?.object ? await sha256(await store.read(record.object.key)) : ''
  const found = record?.history[0]?.at ?? 0
  const end = record?.history.at(-1)?.at ?? 0
  return {
    path,
    size: record?.size ?? 0,
    status: record?.status ?? 'not recorded',
    sha256: source,
    equal: source === stored,
    seconds: (end - found) / 1000
  }
}
