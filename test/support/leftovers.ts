/** Looks for files that nobody needs any more: in Longshore's own folders, and where it sets files of a partner aside. */
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'
import { OWN_PREFIX } from '../../domain/filter.ts'
import { orNull } from '../../drivers/store/filesystem-files.ts'
import { pathOf } from '../../drivers/store/filesystem-path.ts'

/** Of the processes of one run; both may be the same for all of them. */
export interface RunFolders {
  /** DATA_DIR */
  data: string
  /** TMPDIR */
  temporary: string
}

/** What DATA_DIR may hold beside objects. `.damaged` is there for an operator, who removes it. */
const OF_DATA = [
  /^(servers|files|timeline)\.db(\.damaged)?$/,
  /^notifications\.ndjson$/,
  /^encryption\.key$/,
  /^longshore\.(lock|owner)$/,
  /^objects$/
]

/** Each file or folder that should not be there any more, as a sentence. */
export async function leftoverFiles({ data, temporary }: RunFolders): Promise<string[]> {
  const found = [
    ...(await namesIn(data)).filter((name) => !OF_DATA.some((form) => form.test(name))).map((name) => join(data, name)),
    ...(await staleLock(data)),
    ...(await unfinished(join(data, 'objects'))),
    ...(await namesIn(temporary)).map((name) => join(temporary, name))
  ]
  return found.map((path) => `${relative(data, path)} was left`)
}

/** Files of a partner that were renamed, to be deleted or moved, and are still there; each a sentence. */
export function leftAside(paths: Iterable<string>): string[] {
  return [...paths].flatMap((path) => (basename(path).startsWith(OWN_PREFIX) ? [`${path} was left aside`] : []))
}

/** Of an embedded database whose process does not live any more. */
async function staleLock(data: string): Promise<string[]> {
  const path = join(data, 'longshore.owner')
  const owner = await orNull(readFile(path, 'utf8'))
  if (owner === null)
    return (await namesIn(data)).filter((name) => name === 'longshore.lock').map((name) => join(data, name))
  return (await orNull(stat(`/proc/${JSON.parse(owner).pid}`))) === null ? [path] : []
}

/**
 * Of the file-system store: temporary files, uploads that nobody can finish or abort, since nothing says whose they are,
 * and what is told of contents that an object has not or not any more.
 */
async function unfinished(objects: string): Promise<string[]> {
  const found: string[] = []
  for (const bucket of await namesIn(objects)) {
    const own = join(objects, bucket, '.longshore')
    for (const name of await namesIn(join(own, 'temporary'))) found.push(join(own, 'temporary', name))
    found.push(...(await strayVersions(join(objects, bucket), join(own, 'versions'))))
    for (const name of await namesIn(join(own, 'uploads'))) {
      const upload = join(own, 'uploads', name)
      if (!(await namesIn(upload)).includes('upload.json')) found.push(upload)
    }
  }
  return found
}

async function strayVersions(bucket: string, versions: string): Promise<string[]> {
  const names = (await orNull(readdir(versions, { recursive: true }))) ?? []
  const found: string[] = []
  for (const path of names.filter((name) => name.endsWith('.json')).map((name) => join(versions, name))) {
    const key = keyIn(await readFile(path, 'utf8'))
    if (key === null) found.push(path)
    const object = key === null ? null : await orNull(stat(join(bucket, pathOf(key))))
    // Of a file that is not stored yet: whoever stores it clears away what was begun before.
    if (object === null) continue
    if (basename(path) !== `${Math.round(object.mtimeMs)}-${object.size}.json`) found.push(path)
  }
  return found
}

/** null of half a file. */
function keyIn(version: string): string | null {
  try {
    return JSON.parse(version).key
  } catch {
    return null
  }
}

/** None where the folder is not there. */
async function namesIn(folder: string): Promise<string[]> {
  return (await orNull(readdir(folder))) ?? []
}
