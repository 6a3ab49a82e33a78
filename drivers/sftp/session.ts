/**
 * One authenticated SSH connection: dialled, its key verified, logged in.
 *
 *   resolving -> dialling -> handshake -> authenticating -> opening -> ready -> ended
 *
 * Any phase may go to ended: everything pending then rejects with one reason, and the socket is destroyed.
 */
import { createHash } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { connect, type Socket } from 'node:net'
import ssh2, { type Algorithms, type Client } from 'ssh2'
import { MODERN_ALGORITHMS } from '../../domain/algorithms.ts'
import { IngestError } from '../../domain/errors.ts'
import { type AuthHandler, authentication } from './authentication.ts'
import { cancelled, connectionError, connectTimeout, type Place } from './errors.ts'
import { readInto } from './inbound.ts'
import { Operations } from './operations.ts'
import { gatherWrites, padFromPool } from './outbound.ts'
import type { ConnectOptions, SftpTarget } from './sftp.ts'

const defaultTimeoutMs = 30_000
const defaultConnectTimeoutMs = 20_000
/**
 * Over after four of these: a connection on which nothing comes is found dead a moment before its requests time out, so that
 * its files go on over a new one, and none of them is blamed.
 */
const keepalive = { keepaliveInterval: 7_000, keepaliveCountMax: 3 }
/** How long a farewell may take before the socket is destroyed anyway. */
const farewellMs = 1000
const changedKey = 'The server showed another host key in the midst of the connection.'

export class Session {
  readonly client: Client = new ssh2.Client()
  readonly operations: Operations
  readonly place: Place
  /** Known once the handshake is over. */
  hostKey = ''
  #socket: Socket | null = null

  constructor(target: SftpTarget, timeoutMs = defaultTimeoutMs) {
    this.place = { host: target.host, port: target.port, phase: 'resolving', methods: [] }
    this.operations = new Operations(timeoutMs)
    setMaxListeners(0, this.operations.closed)
    // Stays for good: ssh2 may emit errors after the connection is given up, and one without a listener ends the process.
    this.client.on('error', (error) => this.end(error))
    this.client.on('end', () => this.end(new Error('closed by the server')))
    this.client.on('close', () => this.end(new Error('closed')))
  }

  /**
   * Runs `prepare` (what has to work before the connection is of use) after login. The connect timer and the signal
   * bound it all; after a failure nothing is left open.
   */
  async connect(target: SftpTarget, options: ConnectOptions, prepare: () => Promise<void>): Promise<void> {
    const timeoutMs = options.timeoutMs ?? defaultConnectTimeoutMs
    const timer = setTimeout(() => this.end(connectTimeout(this.place, timeoutMs)), timeoutMs)
    const abort = () => this.end(cancelled(options.signal!))
    options.signal?.addEventListener('abort', abort, { once: true })
    try {
      if (options.signal?.aborted) throw cancelled(options.signal)
      const authenticate = authentication(target, (error) => this.end(error))
      const address = await this.#await<string>((done) => {
        options.resolveAddress(target.host).then((found) => done(null, found), done)
      })
      this.place.phase = 'dialling'
      await this.#await<void>((done) => {
        this.client.once('ready', () => done(null))
        this.#dial(address, target, options, authenticate)
      })
      this.place.phase = 'opening'
      await prepare()
      this.place.phase = 'ready'
    } catch (error) {
      this.end(error)
      throw this.operations.closed.reason
    } finally {
      clearTimeout(timer)
      options.signal?.removeEventListener('abort', abort)
    }
  }

  /** Idempotent; the first reason stays. */
  end(reason: unknown): void {
    this.operations.end(connectionError(reason, this.place))
    this.#socket?.destroy()
  }

  /** Says goodbye, then destroys the socket. */
  async close(): Promise<void> {
    const socket = this.#socket
    if (!this.operations.closed.aborted) {
      const { host, port } = this.place
      this.operations.end(new IngestError('CANCELLED', `The connection to ${host}:${port} was closed by this side.`))
      this.client.end()
    }
    if (!socket || socket.closed) return
    // Not events.once: it rejects when the other side resets what is closed anyway, in place of the error that led here.
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    const timer = setTimeout(() => socket.destroy(), farewellMs)
    await closed
    clearTimeout(timer)
  }

  /** One step of connecting; `connect` holds the timer, so it has none of its own. */
  #await<T>(start: (done: (error: unknown, value?: T) => void) => void): Promise<T> {
    return this.operations.run<T>(start, {
      timeoutMs: null,
      onTimeout: (timeoutMs) => connectTimeout(this.place, timeoutMs),
      translate: (error) => connectionError(error, this.place)
    })
  }

  #dial(address: string, target: SftpTarget, options: ConnectOptions, authenticate: AuthHandler): void {
    // Nagle's algorithm with the server's delayed ACK makes each small request wait about 40 ms.
    const onread = readInto(this.client, (data) => socket.emit('data', data))
    const socket: Socket = connect({ host: address, port: target.port, noDelay: true, onread })
    gatherWrites(socket)
    this.#socket = socket
    socket.once('connect', () => {
      this.place.phase = 'handshake'
    })
    this.client.once('handshake', () => {
      this.place.phase = 'authenticating'
    })
    // Comes after each exchange of keys.
    this.client.on('handshake', () => padFromPool(this.client))
    this.client.once('change password', () => {
      this.end(
        new IngestError(
          'SFTP_AUTH_FAILED',
          `The password of ${target.username} has expired; set a new one on the server.`
        )
      )
    })
    this.client.connect({
      sock: socket,
      username: target.username,
      algorithms: { ...MODERN_ALGORITHMS, compress: ['none'], ...target.algorithms } as Algorithms,
      hostVerifier: (key: Buffer, verdict: (accepted: boolean) => void) => this.#verify(key, options, verdict),
      authHandler: ((methodsLeft, partialSuccess, next) => {
        this.place.methods = methodsLeft ?? []
        authenticate(methodsLeft, partialSuccess, next)
      }) satisfies AuthHandler as never,
      readyTimeout: 0,
      ...keepalive
    })
    this.client.setNoDelay(true)
  }

  /** ssh2 authenticates only after `verdict(true)`. Asked again whenever the connection makes new keys. */
  #verify(key: Buffer, options: ConnectOptions, verdict: (accepted: boolean) => void): void {
    const fingerprint = `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`
    if (this.hostKey !== '') {
      if (this.hostKey !== fingerprint) this.end(new IngestError('SFTP_HOST_KEY_MISMATCH', changedKey))
      verdict(this.hostKey === fingerprint)
      return
    }
    options.verifyHostKey(fingerprint).then(
      () => {
        this.hostKey = fingerprint
        verdict(true)
      },
      (error) => {
        this.end(error)
        verdict(false)
      }
    )
  }
}
