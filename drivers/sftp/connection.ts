/** An SFTP server on ssh2: requests under timers, several channels over one connection. */
import { performance } from 'node:perf_hooks'
import type { SFTPWrapper } from 'ssh2'
import { errorType, type IngestError } from '../../domain/errors.ts'
import { channelError, connectionError, requestError, requestTimeout } from './errors.ts'
import { takeData } from './inbound.ts'
import { listPages, toAttributes } from './listing.ts'
import type { Operations } from './operations.ts'
import { RemoteFile } from './reader.ts'
import { Session } from './session.ts'
import type { Attributes, ConnectOptions, Entry, Pace, Sftp, SftpFile, SftpTarget } from './sftp.ts'

/** OpenSSH's MaxSessions; a server that takes fewer refuses one, which is then seen. */
const firstMaxChannels = 10
/** A round trip that is longer than this asks for a larger window. */
const farMs = 30
/** ssh2's channel window: a channel carries no more than this a round trip. */
const defaultWindowBytes = 2 * 1024 * 1024
const farWindowBytes = 4 * 1024 * 1024
/** What OpenSSH takes (`limits@openssh.com`): with half of it 16 files cost a tenth more CPU, of all sides together. */
const maxReadBytes = 255 * 1024
/** An OpenSSH that says no limits, before 8.5, answers a longer READ with so much (`process_read` of its sftp-server.c). */
const oldOpenSshReadBytes = 64 * 1024
/** With a limit on the rate, so that it is kept in small steps. */
const pacedReadBytes = 128 * 1024

/** Below this a range waits so long for each block that a store may take the silence for a dead client. */
const channelBytesPerSecond = 64 * 1024
const clamp = (value: number, least: number, most: number) => Math.max(least, Math.min(most, value))

/** What ssh2 knows of a channel but does not publish. */
interface Internals {
  /** ssh2 splits a larger READ into several, one after another. */
  _maxReadLen: number
  _isOpenSSH: boolean
  /** What the server offers beside the protocol, by name. */
  _extensions: Record<string, string>
  _protocol: { channelWindowAdjust(channel: number, bytes: number): void }
  outgoing: { id: number }
}

/**
 * Connects, has the server's key verified, logs in and opens SFTP. `options.signal` stops the connecting, not the
 * connection once made. Rejects with an IngestError; nothing is left open then.
 */
export async function connectSftp(target: SftpTarget, options: ConnectOptions): Promise<Sftp> {
  const session = new Session(target, options.timeoutMs)
  const connection = new Connection(session)
  await session.connect(target, options, () => connection.prepare())
  return connection
}

class Connection implements Sftp {
  readonly #session: Session
  readonly #operations: Operations
  #pace: Pace | undefined
  /** By the number that callers gave; 0 carries everything but reading. */
  readonly #channels = new Map<number, Promise<SFTPWrapper>>()
  #main!: SFTPWrapper
  #ordered = false
  /** What the server answers one READ with. */
  #mostReadBytes = maxReadBytes
  #holders = 1
  latencyMs = 0
  maxChannels = firstMaxChannels
  readBytes = 0
  /** What may be on its way over one channel. */
  windowBytes = defaultWindowBytes

  constructor(session: Session) {
    this.#session = session
    this.#operations = session.operations
  }

  get hostKey(): string {
    return this.#session.hostKey
  }

  get closed(): AbortSignal {
    return this.#operations.closed
  }

  /** Opens the first channel and learns from it what this server can do. */
  async prepare(): Promise<void> {
    const opening = this.#openChannel()
    this.#channels.set(0, opening)
    this.#main = await opening
    const { _maxReadLen, _isOpenSSH, _extensions } = this.#main as unknown as Internals
    this.#ordered = _isOpenSSH === true
    const isOld = this.#ordered && !('limits@openssh.com' in _extensions)
    this.#mostReadBytes = Math.min(isOld ? oldOpenSshReadBytes : maxReadBytes, _maxReadLen)
    this.readBytes = this.#mostReadBytes

    const start = performance.now()
    await this.realpath('.').catch((error) => {
      // A refusal took one round trip too.
      if (this.closed.aborted || errorType(error) === 'SFTP_TIMEOUT') throw error
    })
    this.latencyMs = performance.now() - start
    if (this.latencyMs <= farMs) return
    this.windowBytes = farWindowBytes
    this.#widen(this.#main)
  }

  limitTo(pace: Pace): void {
    this.#pace = pace
    if (!pace.bytesPerSecond) return
    const channels = Math.floor(pace.bytesPerSecond / channelBytesPerSecond)
    this.maxChannels = clamp(channels, 1, this.maxChannels)
    this.readBytes = Math.min(pacedReadBytes, this.#mostReadBytes)
  }

  realpath(path: string): Promise<string> {
    return this.#request<string>('resolve', path, (done) => this.#main.realpath(path, done))
  }

  async stat(path: string, options: { signal?: AbortSignal } = {}): Promise<Attributes> {
    const ask = (done: unknown) => this.#main.stat(path, done as never)
    return toAttributes(await this.#request<Attributes>('stat', path, ask, options))
  }

  async lstat(path: string): Promise<Attributes> {
    return toAttributes(await this.#request<Attributes>('stat', path, (done) => this.#main.lstat(path, done as never)))
  }

  list(path: string): AsyncIterable<Entry[]> {
    const stat = (looked: string) => this.stat(looked)
    return listPages(this.#operations, { sftp: this.#main, ordered: this.#ordered, stat }, path)
  }

  async open(path: string, options: { channel?: number; signal?: AbortSignal } = {}): Promise<SftpFile> {
    const { signal } = options
    const sftp = await this.#request<SFTPWrapper>(
      'open',
      path,
      (done) => this.#channel(options.channel ?? 0).then((channel) => done(null, channel), done),
      { signal }
    )
    const handle = await this.#request<Buffer>('open', path, (done) => sftp.open(path, 'r', done), {
      signal,
      late: (lateHandle) => sftp.close(lateHandle, () => {})
    })
    const { readBytes, windowBytes } = this
    return new RemoteFile({
      operations: this.#operations,
      sftp,
      handle,
      path,
      readBytes,
      windowBytes,
      pace: this.#pace
    })
  }

  rename(from: string, to: string): Promise<void> {
    return this.#request<void>('rename', from, (done) => this.#main.rename(from, to, done))
  }

  unlink(path: string): Promise<void> {
    return this.#request<void>('delete', path, (done) => this.#main.unlink(path, done))
  }

  mkdir(path: string): Promise<void> {
    return this.#request<void>('make', path, (done) => this.#main.mkdir(path, done))
  }

  retain(): void {
    this.#holders++
  }

  async close(): Promise<void> {
    this.#holders--
    if (this.#holders <= 0) await this.#session.close()
  }

  #request<T>(
    action: string,
    path: string,
    start: (done: (error: unknown, value?: T) => void) => void,
    options: { signal?: AbortSignal; late?: (value: T) => void } = {}
  ): Promise<T> {
    return this.#operations.run<T>(start, {
      ...options,
      onTimeout: (timeoutMs) => requestTimeout(action, path, timeoutMs),
      translate: (error) => requestError(error, action, path)
    })
  }

  /** The channel of this number, opened when it is new; one of the others when the server takes no more. */
  async #channel(number: number): Promise<SFTPWrapper> {
    const known = this.#channels.get(number)
    if (!known && this.#channels.size >= this.maxChannels) return this.#otherChannel(number)
    const opening = known ?? this.#openChannel()
    this.#channels.set(number, opening)
    try {
      return await opening
    } catch (error) {
      if (this.closed.aborted || errorType(error) === 'SFTP_TIMEOUT') throw error
      // Several callers may wait for the one refused channel; the first to hear of it takes it out.
      if (this.#channels.get(number) === opening) {
        this.#channels.delete(number)
        this.maxChannels = Math.min(this.maxChannels, this.#channels.size)
      }
      return this.#otherChannel(number)
    }
  }

  /** Spreads numbers over the open channels, the first one included: it idles while ranges are read. */
  #otherChannel(number: number): Promise<SFTPWrapper> {
    const open = [...this.#channels.keys()]
    return this.#channel(open[number % open.length]!)
  }

  async #openChannel(): Promise<SFTPWrapper> {
    const sftp = await this.#operations.run<SFTPWrapper>((done) => this.#session.client.sftp(done), {
      onTimeout: (timeoutMs) => requestTimeout('open', 'a channel', timeoutMs),
      translate: (error): IngestError => channelError(error, this.#session.place),
      late: (channel) => channel.end()
    })
    const lost = (error?: unknown) =>
      this.#session.end(connectionError(error ?? new Error('the server closed a channel'), this.#session.place))
    // ssh2 answers nothing that is asked of a closed channel, so one that goes takes the connection along.
    sftp.on('error', lost)
    sftp.on('end', () => lost())
    sftp.on('close', () => lost())
    takeData(sftp)
    this.#widen(sftp)
    return sftp
  }

  /**
   * The server may be allowed more at any time (RFC 4254, 5.2). ssh2 tops up what it counts itself at each MiB that
   * arrives, so what is granted here stays on top of that for good.
   */
  #widen(sftp: SFTPWrapper): void {
    const more = this.windowBytes - defaultWindowBytes
    const { _protocol, outgoing } = sftp as unknown as Internals
    if (more > 0) _protocol.channelWindowAdjust(outgoing.id, more)
  }
}
