/** An SFTP server's folders, from a table of paths: listed, looked at, renamed and removed, but not read. */
import { IngestError } from '../../domain/errors.ts'
import type { Attributes, Entry, Sftp } from '../../drivers/sftp/sftp.ts'

export type Node =
  | { kind: 'file'; size?: number; mtime?: number }
  | { kind: 'folder'; error?: IngestError }
  | { kind: 'other' }
  | { kind: 'link'; to: string }
  | { kind: 'bad'; reason: string }

export interface FakeSftp {
  sftp: Sftp
  nodes: Map<string, Node>
  /** Folders that were listed, in order. */
  listed: string[]
  /** Paths that were looked at by themselves. */
  looked: string[]
}

const PAGE = 3

/** `tree`: absolute path -> what is there; folders above a path need not be named. */
export function fakeSftp(tree: Record<string, Node>): FakeSftp {
  const nodes = new Map<string, Node>([['/', { kind: 'folder' }]])
  for (const [path, node] of Object.entries(tree)) {
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
      if (!nodes.has(path.slice(0, at))) nodes.set(path.slice(0, at), { kind: 'folder' })
    }
    nodes.set(path, node)
  }
  const listed: string[] = []
  const looked: string[] = []
  const missing = (path: string) => new IngestError('SFTP_NO_SUCH_PATH', `${path} is not there`)

  function resolve(path: string, hops = 0): string {
    if (hops > 40) throw new IngestError('SFTP_FAILURE', 'too many links')
    let real = ''
    for (const name of path.split('/').filter(Boolean)) {
      const node = nodes.get(`${real}/${name}`)
      real = node?.kind === 'link' ? resolve(node.to, hops + 1) : `${real}/${name}`
      if (real === '/') real = ''
    }
    return real === '' ? '/' : real
  }

  function attributes(node: Node): Attributes {
    const kind = node.kind === 'link' ? 'symlink' : node.kind === 'bad' ? 'other' : node.kind
    const { size = 0, mtime = 1 } = node.kind === 'file' ? node : {}
    return { kind, sizeBytes: size, mtimeSeconds: mtime, mode: 0, uid: 0, gid: 0 }
  }

  function at(path: string): Node {
    const node = nodes.get(path)
    if (!node) throw missing(path)
    return node
  }

  /** As the plain rename of SFTP has it: nothing is overwritten, and the folder must be there. */
  function refuseTaken(path: string): void {
    if (nodes.has(path)) throw new IngestError('SFTP_FAILURE', `${path} is there already`)
    at(path.slice(0, path.lastIndexOf('/')) || '/')
  }

  const sftp = {
    realpath: async (path: string) => {
      const real = resolve(path)
      at(real)
      return real
    },
    closed: new AbortController().signal,
    stat: async (path: string) => attributes(at(resolve(path))),
    rename: async (from: string, to: string) => {
      const node = at(from)
      refuseTaken(to)
      nodes.delete(from)
      nodes.set(to, node)
    },
    unlink: async (path: string) => {
      at(path)
      nodes.delete(path)
    },
    mkdir: async (path: string) => {
      refuseTaken(path)
      nodes.set(path, { kind: 'folder' })
    },
    lstat: async (path: string) => {
      looked.push(path)
      const slash = path.lastIndexOf('/')
      return attributes(at(`${resolve(path.slice(0, slash))}/${path.slice(slash + 1)}`.replace('//', '/')))
    },
    async *list(path: string): AsyncGenerator<Entry[]> {
      listed.push(path)
      const real = resolve(path)
      const folder = at(real)
      const prefix = real === '/' ? '/' : `${real}/`
      const entries = [...nodes].flatMap(([one, node]): Entry[] => {
        const name = one.slice(prefix.length)
        if (!one.startsWith(prefix) || name === '' || name.includes('/')) return []
        return [{ ...attributes(node), name, badName: node.kind === 'bad' ? node.reason : null }]
      })
      const error = folder.kind === 'folder' ? folder.error : missing(path)
      for (let i = 0; i < entries.length; i += PAGE) {
        yield entries.slice(i, i + PAGE)
        if (error) break
      }
      if (error) throw error
    }
  }
  return { sftp: sftp as unknown as Sftp, nodes, listed, looked }
}
