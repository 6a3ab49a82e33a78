/** What partners do to their files while Longshore runs. */
import { OWN_PREFIX } from '../../domain/filter.ts'
import { isMarker, type MarkerPolicy, markerName } from '../../domain/marker.ts'
import type { Random } from './random.ts'
import type { SourceServer } from './sources.ts'
import type { World } from './world.ts'

const MiB = 1024 * 1024
/** A pause of a writer in the middle of a file: shorter than any settling. */
const PAUSE_MS = { low: 200, high: 1_200 }

export class Writer {
  readonly #world: World
  readonly #random: Random
  readonly #source: SourceServer
  readonly #marker: MarkerPolicy | null
  /** Those that Longshore makes are not the partner's. */
  readonly #folders: readonly string[]
  #count = 0
  #marksAll = false
  /** Files that are being written now. */
  readonly open = new Set<string>()

  constructor(world: World, source: SourceServer, marker: MarkerPolicy | null) {
    this.#world = world
    this.#marker = marker
    this.#folders = [...source.folders]
    this.#random = world.random
    this.#source = source
  }

  /** One thing that happens. */
  event(): void {
    const events = [this.drop, this.drop, this.grow, this.grow, this.rewrite, this.rename, this.renameOver, this.remove]
    this.#random.pick([...events, this.replace, this.forbid, this.twin]).call(this)
  }

  /** A whole file at once, as a rename makes it appear. */
  drop(path = this.#newPath()): void {
    this.#source.write(path, this.#size())
    this.#markSoon(path)
  }

  /** A file that is written piece by piece. */
  grow(path = this.#newPath()): void {
    let size = this.#size(false)
    let steps = this.#random.whole(1, 6)
    this.open.add(path)
    const step = () => {
      this.#source.write(path, size)
      size += this.#random.whole(1, 200)
      if (--steps > 0) this.#after(step)
      else {
        this.open.delete(path)
        this.#markSoon(path)
      }
    }
    step()
  }

  /** Says of every file that it is finished, and from now on of each that comes. */
  mark(): void {
    this.#marksAll = true
    if (!this.#marker) return
    for (const path of [...this.#source.files.keys()]) if (this.#isOurs(path)) this.#mark(path)
  }

  #markSoon(path: string): void {
    if (this.#marker && (this.#marksAll || this.#random.chance(0.8))) this.#after(() => this.#mark(path))
  }

  #mark(path: string): void {
    const slash = path.lastIndexOf('/')
    this.#source.write(`${path.slice(0, slash)}/${markerName(this.#marker!, path.slice(slash + 1))}`, 0)
  }

  /** A file of the partner, in a folder of the partner's, and no marker. */
  #isOurs(path: string): boolean {
    const [folder, name] = [path.slice(0, path.lastIndexOf('/')), path.slice(path.lastIndexOf('/') + 1)]
    if (!this.#folders.includes(folder) || name.startsWith(OWN_PREFIX)) return false
    return !this.#marker || !isMarker(this.#marker, name)
  }

  rewrite(): void {
    const path = this.#existing()
    if (path) this.grow(path)
  }

  rename(): void {
    const path = this.#existing()
    const to = this.#newPath()
    if (path) this.#source.rename(path, to)
  }

  /** A new file moved over an old one: an open handle still reads the old one. */
  renameOver(): void {
    const to = this.#existing()
    if (!to) return
    const aside = `${to}.part`
    this.#source.write(aside, this.#size())
    this.#source.rename(aside, to)
  }

  remove(): void {
    const path = this.#existing()
    if (path) this.#source.remove(path)
  }

  /** Gone for a moment, and there again. */
  replace(): void {
    const path = this.#existing()
    if (!path) return
    this.#source.remove(path)
    this.#after(() => this.#source.write(path, this.#size()))
  }

  /** May not be read for a while. */
  forbid(): void {
    const path = this.#existing()
    const inode = path && this.#source.files.get(path)
    if (inode) inode.isReadable = false
  }

  /** A name that the second version of another file has as its key. */
  twin(): void {
    const path = this.#existing()
    if (!path || path.includes('@')) return
    this.drop(`${path}@2`)
    this.#after(() => this.#source.files.has(path) && this.#source.write(path, this.#size()))
  }

  /** The end of all trouble: everything may be read. */
  allow(): void {
    for (const inode of this.#source.files.values()) inode.isReadable = true
  }

  #after(act: () => void): void {
    this.#world.timeline.schedule(this.#world.now + this.#random.between(PAUSE_MS.low, PAUSE_MS.high), null, act)
  }

  #newPath(): string {
    const folder = this.#random.pick(this.#folders)
    return `${folder}/f${++this.#count}${this.#random.chance(0.05) ? '.part' : ''}`
  }

  #existing(): string | undefined {
    const paths = [...this.#source.files.keys()].filter((path) => !this.open.has(path) && this.#isOurs(path))
    return paths.length > 0 ? this.#random.pick(paths) : undefined
  }

  #size(mayBeLarge = true): number {
    if (mayBeLarge && this.#random.chance(0.3)) return this.#random.whole(6 * MiB, 50 * MiB)
    return this.#random.pick([0, 1, 2, 50, this.#random.whole(3, 300)])
  }
}
