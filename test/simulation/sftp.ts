/** A connection to a simulated SFTP server, as `drivers/sftp/sftp.ts` asks for it. */
import { IngestError } from '../../domain/errors.ts'
import type { Attributes, ConnectOptions, Entry, Sftp, SftpFile, SftpTarget } from '../../drivers/sftp/sftp.ts'
import type { Block } from '../../drivers/store/store.ts'
import { type Inode, rangeOf, type SourceServer } from './sources.ts'
import { cancelled, type Life, type World } from './world.ts'

const PAGE = 4

export class SftpServers {
  readonly #world: World
  readonly #servers = new Map<string, SourceServer>()
  /** Open connections, so that the nemesis can cut one. */
  readonly connections = new Set<{ life: Life; cut(): void }>()
  onConnect: (server: SourceServer, life: Life) => void = () => {}

  constructor(world: World) {
    this.#world = world
  }

  add(server: SourceServer): void {
    this.#servers.set(server.name, server)
  }

  open(life: Life): (target: SftpTarget, options: ConnectOptions) => Promise<Sftp> {
    const world = this.#world
    return async (target, { verifyHostKey, signal }) => {
      const server = this.#servers.get(target.host)!
      const failure = (message: string) => new IngestError('SFTP_UNREACHABLE', message)
      const refuse = () => {
        if (server.isDown) throw failure(`${server.name} does not answer`)
      }
      await world.ask(life, { backend: 'sftp', what: `dial ${server.name}`, effect: refuse, failure, signal })
      await verifyHostKey(server.hostKey)
      const connection = new Connection(world, life, server, this.connections)
      const login = () => {
        refuse()
        if (target.password !== server.password)
          throw new IngestError('SFTP_AUTH_FAILED', 'the server refused the password')
        connection.begin()
        this.onConnect(server, life)
      }
      try {
        await world.ask(life, { backend: 'sftp', what: `log in to ${server.name}`, effect: login, failure, signal })
      } catch (error) {
        connection.end(error as Error)
        throw error
      }
      return connection
    }
  }
}

class Connection implements Sftp {
  readonly hostKey: string
  readonly latencyMs = 1
  readonly maxChannels = 4
  readonly readBytes = 32_768
  readonly #world: World
  readonly #life: Life
  readonly #server: SourceServer
  readonly #closed = new AbortController()
  readonly #all: Set<{ life: Life; cut(): void }>
  #isOpen = false
  #holders = 1
  /** A server answers what was asked of one channel in its order. */
  readonly #line = { at: 0 }
  readonly #atDeath = () => this.#hangUp()

  constructor(world: World, life: Life, server: SourceServer, all: Set<{ life: Life; cut(): void }>) {
    this.#world = world
    this.#life = life
    this.#server = server
    this.#all = all
    this.hostKey = server.hostKey
  }

  get closed(): AbortSignal {
    return this.#closed.signal
  }

  get life(): Life {
    return this.#life
  }

  /** The server's side. */
  begin(): void {
    // Whoever died or gave up meanwhile has hung up.
    if (this.#life.isDead || this.closed.aborted) return
    this.#isOpen = true
    this.#server.connections++
    this.#all.add(this)
    this.#life.onDeath.add(this.#atDeath)
  }

  #hangUp(): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    this.#server.connections--
    this.#all.delete(this)
    this.#life.onDeath.delete(this.#atDeath)
  }

  /** By the network: the client learns of it a moment later. */
  cut(): void {
    this.#world.note(() => `a connection of ${this.#life.name} to ${this.#server.name} is cut`)
    this.#hangUp()
    const error = new IngestError('SFTP_CONNECTION_LOST', 'the connection was lost')
    this.#world.timeline.schedule(this.#world.now + this.#world.wayMs(), this.#life, () => this.end(error))
  }

  end(reason: Error): void {
    this.#hangUp()
    if (!this.closed.aborted) this.#closed.abort(reason)
  }

  async #ask<R>(what: string, effect: () => R, signal?: AbortSignal, takesMs?: number): Promise<R> {
    if (this.closed.aborted) throw this.closed.reason
    const failure = (message: string) => {
      // A request that is lost takes its connection along.
      const error = new IngestError('SFTP_CONNECTION_LOST', message)
      this.end(error)
      return error
    }
    const both = signal ? AbortSignal.any([signal, this.closed]) : this.closed
    const checked = () => {
      if (this.#server.isDown) {
        this.cut()
        throw new IngestError('SFTP_CONNECTION_LOST', `${this.#server.name} went away`)
      }
      return effect()
    }
    return this.#world.ask(this.#life, {
      backend: 'sftp',
      what,
      effect: checked,
      failure,
      signal: both,
      takesMs,
      line: this.#line
    })
  }

  #at(path: string): Inode {
    const inode = this.#server.files.get(path)
    if (!inode) throw new IngestError('SFTP_NO_SUCH_PATH', `${path} is not there`)
    return inode
  }

  async realpath(path: string): Promise<string> {
    return this.#ask(`realpath ${path}`, () => path)
  }

  async stat(path: string): Promise<Attributes> {
    const { folders } = this.#server
    return this.#ask(`stat ${path}`, () => (folders.includes(path) ? FOLDER : attributesOf(this.#at(path))))
  }

  async lstat(path: string): Promise<Attributes> {
    return this.stat(path)
  }

  async *list(path: string): AsyncGenerator<Entry[]> {
    const { files, folders } = this.#server
    const prefix = path === '/' ? '/' : `${path}/`
    const isDirect = (one: string) =>
      one.startsWith(prefix) && one !== prefix && !one.slice(prefix.length).includes('/')
    const names = await this.#ask(`opendir ${path}`, () =>
      [...folders, ...files.keys()].filter(isDirect).map((one) => one.slice(prefix.length))
    )
    for (let from = 0; from < names.length; from += PAGE) {
      yield await this.#ask(`readdir ${path}`, () =>
        names.slice(from, from + PAGE).flatMap((name): Entry[] => {
          if (folders.includes(prefix + name)) return [{ ...FOLDER, name, badName: null }]
          const inode = files.get(prefix + name)
          return inode ? [{ ...attributesOf(inode), name, badName: null }] : []
        })
      )
    }
  }

  async open(path: string, { signal }: { signal?: AbortSignal } = {}): Promise<SftpFile> {
    const inode = await this.#ask(
      `open ${path}`,
      () => {
        const found = this.#at(path)
        if (!found.isReadable) throw new IngestError('SFTP_PERMISSION_DENIED', `${path} may not be read`)
        return found
      },
      signal
    )
    return {
      stat: () => this.#ask(`fstat ${path}`, () => attributesOf(inode)),
      readSmall: (size, options) => this.#readSmall(path, inode, size, options?.signal),
      blocks: (start, length, options) => this.#blocks(path, inode, start, length, options ?? {}),
      close: () => this.#ask(`close ${path}`, () => undefined)
    }
  }

  /** In two READs, as a file of some size needs several. */
  async #readSmall(path: string, inode: Inode, size: number, signal?: AbortSignal): Promise<Buffer> {
    const half = size >> 1
    const pieces = await Promise.all([
      this.#read(path, inode, 0, half, signal),
      this.#read(path, inode, half, size - half, signal)
    ])
    return Buffer.concat(pieces)
  }

  #read(path: string, inode: Inode, start: number, length: number, signal?: AbortSignal): Promise<Buffer> {
    const read = () => {
      if (start + length > inode.size) throw new IngestError('SOURCE_CHANGED', `${path} ended early`)
      return rangeOf(inode, start, length)
    }
    return this.#ask(`read ${path} ${start}+${length}`, read, signal)
  }

  async *#blocks(
    path: string,
    inode: Inode,
    start: number,
    length: number,
    { signal, onBytes }: { signal?: AbortSignal; onBytes?: (bytes: number) => void }
  ): AsyncGenerator<Block> {
    const half = length >> 1
    for (const [from, bytes] of [
      [start, half],
      [start + half, length - half]
    ] as const) {
      if (signal?.aborted) throw cancelled(signal)
      const read = await this.#read(path, inode, from, bytes, signal)
      onBytes?.(bytes)
      yield { bytes: read, release: () => undefined }
    }
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#ask(`rename ${from} ${to}`, () => {
      this.#server.onClear(from, this.#at(from), to)
      if (this.#server.files.has(to)) throw new IngestError('SFTP_FAILURE', `${to} is there`)
      this.#server.rename(from, to)
    })
  }

  async unlink(path: string): Promise<void> {
    await this.#ask(`unlink ${path}`, () => {
      this.#server.onClear(path, this.#at(path), null)
      this.#server.remove(path)
    })
  }

  async mkdir(path: string): Promise<void> {
    await this.#ask(`mkdir ${path}`, () => {
      if (this.#server.folders.includes(path)) throw new IngestError('SFTP_FAILURE', `${path} is there`)
      this.#server.folders.push(path)
    })
  }

  limitTo(): void {}

  retain(): void {
    this.#holders++
  }

  async close(): Promise<void> {
    this.#holders--
    if (this.#holders > 0) return
    const closed = () => this.end(new IngestError('CANCELLED', 'the connection was closed'))
    // The last word needs no answer.
    closed()
  }
}

const FOLDER: Attributes = { kind: 'folder', sizeBytes: 0, mtimeSeconds: 0, mode: 0, uid: 0, gid: 0 }

function attributesOf({ size, mtimeSeconds }: Inode): Attributes {
  return { kind: 'file', sizeBytes: size, mtimeSeconds, mode: 0, uid: 0, gid: 0 }
}
