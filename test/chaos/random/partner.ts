/**
 * The partner who fills the SFTP server: small files in batches, large ones, files that grow while they are listed,
 * files that are renamed, rewritten or removed under the reader. It remembers every content that each path ever had,
 * since any of them may have been stored, and what is there now, since that has to be.
 */
import { createCipheriv, createHash, type Hash } from 'node:crypto'
import { mkdir, open, rename, rm, stat, utimes } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Content } from '../../support/invariants.ts'
import type { Random } from '../../support/random.ts'
import { hostileNames } from '../../support/source-files.ts'

/** One path of the server, as the server names it. */
export interface Trace {
  path: string
  /** Everything that it ever held, the last one last. */
  contents: (Content & { mtime: number })[]
  isThere: boolean
}

export interface Partner {
  readonly traces: ReadonlyMap<string, Trace>
  readonly written: { files: number; bytes: number; actions: number }
  /** Ends after the action that is under way. */
  stop(): Promise<void>
}

export interface PartnerOptions {
  /** Folders to fill, each the root of a registered server. */
  roots: string[]
  random: Random
  largeBytes: number
  /** How much is written in all. */
  mostBytes: number
}

const KiB = 1024
const MiB = 1024 * KiB
/** Matches the default temporary names, so that half a file is never listed as one. */
const DRAFT = '.draft-'

export function startPartner(options: PartnerOptions): Partner {
  const partner = new Filler(options)
  const ended = partner.run()
  return {
    traces: partner.traces,
    written: partner.written,
    async stop() {
      partner.stopping.abort()
      await ended
    }
  }
}

class Filler {
  readonly traces = new Map<string, Trace>()
  readonly written = { files: 0, bytes: 0, actions: 0 }
  readonly stopping = new AbortController()
  readonly #options: PartnerOptions
  readonly #growing = new Set<Promise<void>>()
  /** Paths that a grower is still writing to. */
  readonly #busy = new Set<string>()
  #count = 0

  constructor(options: PartnerOptions) {
    this.#options = options
  }

  async run(): Promise<void> {
    const { random } = this.#options
    const actions: [number, () => Promise<void>][] = [
      [40, () => this.#small()],
      [8, () => this.#create(random.between(MiB, 8 * MiB))],
      [5, () => this.#create(this.#options.largeBytes + random.between(-MiB, MiB))],
      [10, () => this.#grow()],
      [8, () => this.#rename()],
      [12, () => this.#rewrite()],
      [8, () => this.#remove()]
    ]
    const all = actions.reduce((sum, [weight]) => sum + weight, 0)
    while (!this.stopping.signal.aborted) {
      let at = random.between(1, all)
      const [, act] = actions.find(([weight]) => {
        at -= weight
        return at <= 0
      })!
      if (this.written.bytes < this.#options.mostBytes) await act()
      this.written.actions++
      await this.#pause(random.between(100, 1200))
    }
    await Promise.all(this.#growing)
  }

  async #pause(ms: number): Promise<void> {
    await delay(ms, undefined, { signal: this.stopping.signal }).catch(() => undefined)
  }

  #newPath(): string {
    const { random, roots } = this.#options
    const number = ++this.#count
    const folder = random.pick(['', 'in/', 'in/daily/', 'ü b/'])
    const hostile = random.chance(0.2) ? random.pick(hostileNames) : 'file'
    // Cut so that the number still fits into a name of 255 bytes.
    const name = Buffer.from(hostile).length > 200 ? hostile.slice(0, 60) : hostile
    return `${random.pick(roots)}/${folder}${number}-${name}`
  }

  async #small(): Promise<void> {
    const files = this.#options.random.between(1, 8)
    for (let index = 0; index < files; index++) await this.#create(this.#options.random.between(0, 96 * KiB))
  }

  async #create(sizeBytes: number): Promise<void> {
    await this.#replace(this.#newPath(), sizeBytes)
  }

  /** Written aside and renamed into place, the whole content at once. */
  async #replace(path: string, sizeBytes: number): Promise<void> {
    const draft = `${dirname(path)}/${DRAFT}${++this.#count}`
    await mkdir(dirname(path), { recursive: true })
    const file = await open(draft, 'w')
    const hash = createHash('sha256')
    try {
      for (const chunk of noise(`${path}${this.#count}`, sizeBytes)) {
        hash.update(chunk)
        await file.write(chunk)
      }
    } finally {
      await file.close()
    }
    await rename(draft, path)
    await this.#note(path, sizeBytes, hash)
    this.written.files++
    this.written.bytes += sizeBytes
  }

  async #note(path: string, size: number, hash: Hash): Promise<void> {
    const trace = this.traces.get(path) ?? { path, contents: [], isThere: true }
    const mtime = Math.floor((await stat(path)).mtimeMs / 1000) * 1000
    trace.contents.push({ size, sha256: hash.copy().digest('hex'), mtime })
    this.traces.set(path, trace)
  }

  /** Appends piece by piece, sometimes with a pause in which it looks finished. */
  async #grow(): Promise<void> {
    const { random } = this.#options
    const path = this.#newPath()
    const pieces = random.between(3, 9)
    const sizes = Array.from({ length: pieces }, () => random.between(1, random.chance(0.2) ? 2 * MiB : 64 * KiB))
    const pauses = sizes.map(() => (random.chance(0.15) ? 5000 : random.between(100, 1500)))
    await mkdir(dirname(path), { recursive: true })
    this.#busy.add(path)
    const grown = (async () => {
      const hash = createHash('sha256')
      let size = 0
      const file = await open(path, 'a')
      try {
        for (const [index, bytes] of sizes.entries()) {
          const [chunk] = noise(`${path}${index}`, bytes, bytes)
          hash.update(chunk!)
          await file.write(chunk!)
          size += bytes
          await this.#note(path, size, hash)
          this.written.bytes += bytes
          await this.#pause(pauses[index]!)
        }
      } finally {
        await file.close()
        this.#busy.delete(path)
      }
      this.written.files++
    })()
    this.#growing.add(grown)
    void grown.finally(() => this.#growing.delete(grown))
  }

  #pickPresent(): Trace | null {
    const present = [...this.traces.values()].filter(({ path, isThere }) => isThere && !this.#busy.has(path))
    return present.length > 0 ? this.#options.random.pick(present) : null
  }

  async #rename(): Promise<void> {
    const trace = this.#pickPresent()
    if (!trace) return
    const path = `${trace.path}.moved`
    if (Buffer.byteLength(path.slice(path.lastIndexOf('/') + 1)) > 250) return
    await rename(trace.path, path)
    this.traces.set(path, { path, contents: [trace.contents.at(-1)!], isThere: true })
    trace.isThere = false
  }

  /** Another content under the same name: of another size, or of the same size and a later time. */
  async #rewrite(): Promise<void> {
    const trace = this.#pickPresent()
    if (!trace) return
    const { random } = this.#options
    const before = trace.contents.at(-1)!
    const isSameSize = random.chance(0.4)
    // Times on an SFTP server are whole seconds: a rewrite of the same size within one is not to be told apart.
    if (before.size > 16 * MiB || (isSameSize && Date.now() - before.mtime < 2000)) return
    let size = isSameSize ? before.size : random.between(0, 128 * KiB)
    if (!isSameSize) while (trace.contents.some((content) => content.size === size)) size++
    await this.#replace(trace.path, size)
    const after = trace.contents.at(-1)!
    if (after.mtime > before.mtime) return
    const mtime = before.mtime + 1000
    await utimes(trace.path, mtime / 1000, mtime / 1000)
    trace.contents.push({ ...after, mtime })
  }

  async #remove(): Promise<void> {
    const trace = this.#pickPresent()
    if (!trace) return
    await rm(trace.path)
    trace.isThere = false
  }
}

function* noise(seed: string, sizeBytes: number, chunkBytes = MiB): Generator<Buffer> {
  const cipher = createCipheriv('aes-256-ctr', createHash('sha256').update(seed).digest(), Buffer.alloc(16))
  for (let left = sizeBytes; left > 0; left -= chunkBytes) yield cipher.update(Buffer.alloc(Math.min(left, chunkBytes)))
}
