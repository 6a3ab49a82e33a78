/**
 * The partner's SFTP server: a tree of files that change while they are read. A small content is real bytes; of a large
 * one there is only a text that names its write and its range, `w7:0+41943040`: two that were mixed are seen.
 */
import { createHash } from 'node:crypto'
import { SMALL_FILE_BYTES } from '../../domain/ranges.ts'
import type { World } from './world.ts'

/** What is at a path; a handle keeps it when the path is renamed over or removed. */
export interface Inode {
  size: number
  mtimeSeconds: number
  /** Of the last write. */
  write: number
  isReadable: boolean
}

/** What a path held, from when to when (virtual ms). */
export interface Held {
  size: number
  mtime: number
  sha256: string
  write: number
  from: number
  to: number
}

export class SourceServer {
  readonly id: string
  readonly name: string
  password = 'correct horse'
  hostKey: string
  readonly files = new Map<string, Inode>()
  readonly history = new Map<string, Held[]>()
  readonly folders: string[]
  isDown = false
  connections = 0
  /** Called before Longshore renames or deletes a file. */
  onClear: (path: string, inode: Inode, to: string | null) => void = () => {}
  readonly #world: World

  constructor(world: World, id: string, name: string, folders: string[]) {
    this.#world = world
    this.id = id
    this.name = name
    this.hostKey = `SHA256:${createHash('sha256').update(id).digest('base64').slice(0, 43)}`
    this.folders = folders
  }

  /** A new content in place: open handles see it. A new file where there is none. */
  write(path: string, size: number): void {
    const inode = this.files.get(path) ?? { size: 0, mtimeSeconds: 0, write: 0, isReadable: true }
    const mtimeSeconds = this.#mtime(inode, size)
    Object.assign(inode, { size, mtimeSeconds, write: ++this.#world.writes })
    this.files.set(path, inode)
    this.#world.note(() => `${this.name} ${path} is written, ${size} bytes, w${inode.write}`)
    this.#hold(path, inode)
  }

  /** Seconds are all that SFTP tells: another content of the same size within one is a change that nobody can see. */
  #mtime(inode: Inode, size: number): number {
    const seconds = Math.floor(this.#world.timeline.date / 1000)
    return inode.size === size && inode.mtimeSeconds >= seconds ? inode.mtimeSeconds + 1 : seconds
  }

  remove(path: string): void {
    if (!this.files.delete(path)) return
    this.#world.note(() => `${this.name} ${path} is removed`)
    this.#end(path)
  }

  /** Also over a file that is there: its handles keep the old one. */
  rename(from: string, to: string): void {
    const inode = this.files.get(from)
    if (!inode) return
    this.#world.note(() => `${this.name} ${from} is renamed to ${to}`)
    this.files.delete(from)
    this.#end(from)
    const there = this.files.get(to)
    if (there && there.size === inode.size && there.mtimeSeconds === inode.mtimeSeconds) inode.mtimeSeconds++
    this.files.set(to, inode)
    this.#hold(to, inode)
  }

  #end(path: string): void {
    const last = this.history.get(path)?.at(-1)
    if (last) last.to = Math.min(last.to, this.#world.now)
  }

  #hold(path: string, inode: Inode): void {
    this.#end(path)
    const sha256 = createHash('sha256').update(contentOf(inode)).digest('hex')
    const { size, mtimeSeconds, write } = inode
    const last = this.history.get(path)?.at(-1)
    // Renamed aside, and back again: nothing has changed.
    if (last?.write === write && last.sha256 === sha256 && last.mtime === mtimeSeconds * 1000) {
      last.to = Number.POSITIVE_INFINITY
      return
    }
    const held = {
      size,
      mtime: mtimeSeconds * 1000,
      sha256,
      write,
      from: this.#world.now,
      to: Number.POSITIVE_INFINITY
    }
    this.history.set(path, [...(this.history.get(path) ?? []), held])
  }
}

/** All of it. */
export function contentOf(inode: Inode): Buffer {
  return rangeOf(inode, 0, inode.size)
}

export function isSmall(inode: Inode): boolean {
  return inode.size <= SMALL_FILE_BYTES
}

/** The bytes [start, start + length) as they are now, or the text that stands for them. */
export function rangeOf(inode: Inode, start: number, length: number): Buffer {
  if (!isSmall(inode)) return Buffer.from(`w${inode.write}:${start}+${length}\n`)
  const bytes = Buffer.alloc(length)
  for (let i = 0; i < length; i++) bytes[i] = (inode.write * 31 + (start + i) * 7) & 0xff
  return bytes
}

/** Texts of ranges that follow each other become one: so a whole file reads the same, however it was cut. */
export function joined(pieces: Buffer[]): Buffer {
  const merged: { write: string; start: number; length: number }[] = []
  for (const line of Buffer.concat(pieces).toString('latin1').split('\n')) {
    const match = /^(w\d+):(\d+)\+(\d+)$/.exec(line)
    if (!match) continue
    const [start, length] = [Number(match[2]), Number(match[3])]
    const last = merged.at(-1)
    if (last && last.write === match[1] && last.start + last.length === start) last.length += length
    else merged.push({ write: match[1]!, start, length })
  }
  return Buffer.from(merged.map(({ write, start, length }) => `${write}:${start}+${length}\n`).join(''))
}
