/** What Longshore needs of an SFTP server; `connection.ts` implements it on ssh2. Every failure is an IngestError of type SFTP_*. */
import type { Algorithms } from '../../domain/algorithms.ts'
import type { Block } from '../store/store.ts'

/** Where and how to connect. Holds plaintext secrets: lives in the worker's memory only, is never logged or sent. */
export interface SftpTarget {
  host: string
  port: number
  username: string
  password?: string
  privateKey?: string
  passphrase?: string
  /** A kind that is absent: modern ones only. */
  algorithms?: Algorithms
}

/** A limit on the bytes that are read, which others may share. */
export interface Pace {
  /** null: no limit. */
  readonly bytesPerSecond: number | null
  /** Takes these bytes from the limit; answers how many milliseconds to wait before they may be asked for. */
  take(bytes: number): number
  /** Of bytes that were taken and never asked for. */
  giveBack(bytes: number): void
}

export interface ConnectOptions {
  /**
   * Called with the server's key as "SHA256:<base64>" before anything is authenticated. Resolve to go on;
   * reject with SFTP_HOST_KEY_MISMATCH to refuse.
   */
  verifyHostKey(fingerprint: string): Promise<void>
  /** Turns a host name into the checked address that is dialled. Rejects with ADDRESS_DENIED. */
  resolveAddress(host: string): Promise<string>
  signal?: AbortSignal
  /** Bound on connect, each operation, and silence while reading; default 30,000 ms (20,000 for the connect). */
  timeoutMs?: number
}

export type EntryKind = 'file' | 'folder' | 'symlink' | 'other'

export interface Attributes {
  kind: EntryKind
  sizeBytes: number
  /** Seconds since the epoch, as SFTP has it. */
  mtimeSeconds: number
  mode: number
  uid: number
  gid: number
}

export interface Entry extends Attributes {
  name: string
  /** The name is not UTF-8, is empty, `.`/`..` like, or contains a slash or NUL; says which. Such an entry must not be touched. */
  badName: string | null
}

export interface Sftp {
  /** "SHA256:…" of the server that answered. */
  readonly hostKey: string
  /** Milliseconds of one small request, measured on the wire. */
  readonly latencyMs: number
  /** Aborted, with the reason, when the connection ends for whatever cause. */
  readonly closed: AbortSignal
  realpath(path: string): Promise<string>
  stat(path: string, options?: { signal?: AbortSignal }): Promise<Attributes>
  lstat(path: string): Promise<Attributes>
  /** Page by page (`.` and `..` left out); the handle is closed even when the consumer stops early. */
  list(path: string): AsyncIterable<Entry[]>
  /** Opens for reading, on a channel of its own when `channel` is given a number other than 0 (channels are opened as needed and kept). */
  open(path: string, options?: { channel?: number; signal?: AbortSignal }): Promise<SftpFile>
  rename(from: string, to: string): Promise<void>
  unlink(path: string): Promise<void>
  mkdir(path: string): Promise<void>
  /** Channels that may be open at once, learned from the server's refusals; starts at 8. */
  readonly maxChannels: number
  /** Bytes that one READ may ask for. */
  readonly readBytes: number
  /** Holds for what is read of files that are opened from then on; listings and other small requests do not count. */
  limitTo(pace: Pace): void
  /** One more that holds the connection: it ends with the last `close`. */
  retain(): void
  close(): Promise<void>
}

/** As much of a server as looking around takes. */
export type SftpLooks = Pick<Sftp, 'realpath' | 'stat' | 'lstat' | 'list'>

export interface SftpFile {
  /** FSTAT of this handle. */
  stat(options?: { signal?: AbortSignal }): Promise<Attributes>
  /**
   * The bytes [start, start + length) in order, in blocks of exactly `readBytes` but for the last, READs pipelined.
   * Throws SOURCE_CHANGED when the file ends early, STALLED after `timeoutMs` without a byte.
   * The buffers come from a pool: a block not released is never reused. `onAsked`: every READ has been sent once.
   */
  blocks(
    start: number,
    length: number,
    options?: { signal?: AbortSignal; onBytes?: (bytes: number) => void; onAsked?: () => void }
  ): AsyncIterable<Block>
  /** The whole of a small file (at most `maxBytes`), pipelined. Same errors. */
  readSmall(sizeBytes: number, options?: { signal?: AbortSignal }): Promise<Buffer>
  close(): Promise<void>
}
