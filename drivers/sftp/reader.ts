/** Pipelined reading of one open file. */
import type { SFTPWrapper } from 'ssh2'
import { IngestError } from '../../domain/errors.ts'
import type { Block } from '../store/store.ts'
import { poolOf } from './buffers.ts'
import { cancelled, requestError, requestTimeout } from './errors.ts'
import { closeHandle, toAttributes } from './listing.ts'
import type { Operations } from './operations.ts'
import type { Attributes, Pace, SftpFile } from './sftp.ts'

interface ReadOptions {
  signal?: AbortSignal
  onBytes?: (bytes: number) => void
  onAsked?: () => void
}

export interface OpenFile {
  operations: Operations
  sftp: SFTPWrapper
  handle: Buffer
  path: string
  readBytes: number
  /** More than the channel's window can never be on its way, so asking for more would only hold buffers. */
  windowBytes: number
  pace?: Pace | undefined
}

export class RemoteFile implements SftpFile {
  readonly #file: OpenFile
  #closing: Promise<void> | null = null

  constructor(file: OpenFile) {
    this.#file = file
  }

  async stat({ signal }: { signal?: AbortSignal } = {}): Promise<Attributes> {
    const { operations, sftp, handle, path } = this.#file
    const raw = await operations.run<Parameters<typeof toAttributes>[0]>((done) => sftp.fstat(handle, done), {
      signal,
      translate: (error) => requestError(error, 'stat', path),
      onTimeout: (timeoutMs) => requestTimeout('stat', path, timeoutMs)
    })
    return toAttributes(raw)
  }

  async *blocks(start: number, length: number, options: ReadOptions = {}): AsyncGenerator<Block> {
    const reading = new Reading(this.#file, start, start + length, poolOf(this.#file.readBytes), options)
    try {
      for (let block = await reading.next(); block; block = await reading.next()) yield block
    } finally {
      reading.stop()
    }
  }

  async readSmall(sizeBytes: number, options: { signal?: AbortSignal } = {}): Promise<Buffer> {
    const whole = Buffer.allocUnsafe(sizeBytes)
    const reading = new Reading(this.#file, 0, sizeBytes, placesIn(whole), options)
    try {
      while (await reading.next());
    } finally {
      reading.stop()
    }
    return whole
  }

  close(): Promise<void> {
    const { operations, sftp, handle, path } = this.#file
    this.#closing ??= closeHandle(operations, sftp, handle, path)
    return this.#closing
  }
}

/** Where READs put what they bring. */
interface Places {
  /** A buffer of at least `wanted` bytes for what is at `offset`. */
  take(offset: number, wanted: number): Buffer
  give(buffer: Buffer): void
}

/** A file's bytes go straight to where they belong. */
function placesIn(whole: Buffer): Places {
  return { take: (offset, wanted) => whole.subarray(offset, offset + wanted), give: () => {} }
}

interface Slot {
  buffer: Buffer
  offset: number
  wanted: number
  filled: number
}

/**
 * One range on its way. Each READ owns its buffer from the request until the server's answer, so a buffer of an
 * abandoned range comes back to the pool only when nothing can write into it any more.
 *
 *   reading --fail--> failed        the next block throws
 *   reading | failed --stop--> stopped
 */
class Reading {
  readonly #file: OpenFile
  readonly #options: ReadOptions
  readonly #places: Places
  readonly #depth: number
  readonly #end: number
  /** In the order of the file; the first one is what the consumer waits for. */
  readonly #slots: Slot[] = []
  readonly #stall: NodeJS.Timeout
  readonly #forget: () => void
  #asked: number
  #inFlight = 0
  #arrivedBytes = 0
  #failure: IngestError | null = null
  #stopped = false
  #wake: (() => void) | null = null
  /** The next READ waits for the limit; what it will ask for is taken from it already. */
  #paused: { timer: NodeJS.Timeout; bytes: number } | null = null

  constructor(file: OpenFile, start: number, end: number, places: Places, options: ReadOptions) {
    this.#file = file
    this.#options = options
    this.#places = places
    this.#depth = Math.max(1, Math.floor(file.windowBytes / file.readBytes))
    this.#asked = start
    this.#end = end
    this.#stall = setTimeout(() => this.#checkStall(), file.operations.timeoutMs)
    this.#forget = file.operations.onEnd((reason) => this.#fail(reason))
    if (options.signal?.aborted) this.#abort()
    else options.signal?.addEventListener('abort', this.#abort, { once: true })
  }

  /** The next block in order, or null at the end of the range. */
  async next(): Promise<Block | null> {
    this.#ask()
    while (!this.#failure && !this.#isNextDecided()) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    if (this.#failure) throw this.#failure
    const slot = this.#slots.shift()
    if (!slot) return null
    this.#ask()
    return this.#toBlock(slot)
  }

  /** Idempotent. Answers still under way free their buffers when they come. */
  stop(): void {
    if (this.#stopped) return
    this.#stopped = true
    clearTimeout(this.#stall)
    if (this.#paused) {
      clearTimeout(this.#paused.timer)
      this.#file.pace!.giveBack(this.#paused.bytes)
    }
    this.#forget()
    this.#options.signal?.removeEventListener('abort', this.#abort)
    for (const slot of this.#slots) if (slot.filled === slot.wanted) this.#places.give(slot.buffer)
  }

  /** Its block is whole, or there is no next one: with a limit, nothing may be on its way before the end. */
  #isNextDecided(): boolean {
    const slot = this.#slots[0]
    return slot ? slot.filled === slot.wanted : this.#asked === this.#end
  }

  #ask(): void {
    while (!this.#failure && !this.#paused && this.#slots.length < this.#depth && this.#asked < this.#end) {
      const wanted = Math.min(this.#file.readBytes, this.#end - this.#asked)
      const waitMs = this.#file.pace?.take(wanted) ?? 0
      if (waitMs < 1) this.#askFor(wanted)
      else this.#paused = { timer: setTimeout(() => this.#endPause(), waitMs), bytes: wanted }
    }
  }

  #askFor(wanted: number): void {
    const slot = { buffer: this.#places.take(this.#asked, wanted), offset: this.#asked, wanted, filled: 0 }
    this.#asked += wanted
    this.#slots.push(slot)
    this.#request(slot)
    if (this.#asked === this.#end) this.#options.onAsked?.()
  }

  #endPause(): void {
    const { bytes } = this.#paused!
    this.#paused = null
    if (this.#failure) {
      this.#file.pace!.giveBack(bytes)
      return
    }
    this.#askFor(bytes)
    this.#ask()
  }

  #request(slot: Slot): void {
    const { sftp, handle, path } = this.#file
    // Silence counts from when something is expected: a consumer that takes its time is no stall.
    if (this.#inFlight === 0) this.#stall.refresh()
    this.#inFlight++
    try {
      sftp.read(
        handle,
        slot.buffer,
        slot.filled,
        slot.wanted - slot.filled,
        slot.offset + slot.filled,
        (error, bytes) => {
          this.#inFlight--
          if (this.#stopped || this.#failure) return this.#places.give(slot.buffer)
          if (error || bytes === 0) this.#places.give(slot.buffer)
          if (error) return this.#fail(requestError(error, 'read', path))
          if (bytes === 0) return this.#fail(this.#endedEarly(slot))
          this.#arrived(slot, bytes)
        }
      )
    } catch (error) {
      this.#inFlight--
      this.#fail(requestError(error, 'read', path))
    }
  }

  #arrived(slot: Slot, bytes: number): void {
    slot.filled += bytes
    this.#arrivedBytes += bytes
    this.#stall.refresh()
    this.#options.onBytes?.(bytes)
    // Servers may answer with less than was asked for.
    if (slot.filled < slot.wanted) this.#request(slot)
    else if (slot === this.#slots[0]) this.#wake?.()
  }

  #toBlock(slot: Slot): Block {
    let released = false
    return {
      bytes: slot.wanted === slot.buffer.length ? slot.buffer : slot.buffer.subarray(0, slot.wanted),
      release: () => {
        if (released) return
        released = true
        this.#places.give(slot.buffer)
      }
    }
  }

  #checkStall(): void {
    const seen = this.#arrivedBytes
    // Looks at what has arrived first: after the process was stopped, timers run ahead of the input that waited.
    setImmediate(() => {
      if (this.#inFlight === 0 || this.#arrivedBytes !== seen) return
      const { path, operations } = this.#file
      const message = `Nothing of ${JSON.stringify(path)} arrived for ${operations.timeoutMs} ms.`
      this.#fail(new IngestError('STALLED', message, { data: { path } }))
    })
  }

  #fail(error: IngestError): void {
    if (this.#stopped || this.#failure) return
    this.#failure = error
    this.#wake?.()
  }

  readonly #abort = () => this.#fail(cancelled(this.#options.signal!))

  #endedEarly(slot: Slot): IngestError {
    const { path } = this.#file
    // Of all the READs past the end, this is the first to be answered: the end itself may lie before it.
    const atByte = slot.offset + slot.filled
    return new IngestError(
      'SOURCE_CHANGED',
      `${JSON.stringify(path)} has no byte ${atByte} though more was expected: it was cut while it was read.`,
      { data: { path, atByte, expectedBytes: this.#end } }
    )
  }
}
