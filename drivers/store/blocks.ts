import { crc32 } from 'node:zlib'
import { crc32Hex } from '../../domain/crc32.ts'
import { errorType, IngestError } from '../../domain/errors.ts'
import type { Block, PartOptions } from './store.ts'

/** The error of an operation whose signal fired: the reason itself where it is one of ours, CANCELLED otherwise. */
export function cancelled(signal: AbortSignal): IngestError {
  const { reason } = signal
  if (reason instanceof Error && errorType(reason) !== 'INTERNAL') return reason as IngestError
  return new IngestError('CANCELLED', 'the operation was cancelled', { cause: reason })
}

/**
 * Hands on the blocks of a part one by one, checks that they are what was promised and sums them up.
 *
 * Invariants: each block that the source gave is released exactly once, also one that arrives after `stop`; `next`
 * settles within a turn of `stop`, even while the source is silent; nothing is asked of the source after `stop`.
 */
export class BlockReader {
  readonly #iterator: AsyncIterator<Block>
  readonly #sizeBytes: number
  readonly #blockBytes: number
  readonly #held = new Set<Block>()
  #crc = 0
  #takenBytes = 0
  #stopped = false
  #wake: () => void = () => {}

  constructor(options: Pick<PartOptions, 'blocks' | 'sizeBytes' | 'blockBytes'>) {
    this.#iterator = options.blocks[Symbol.asyncIterator]()
    this.#sizeBytes = options.sizeBytes
    this.#blockBytes = options.blockBytes
  }

  /** Blocks handed out and not released yet. */
  get held(): number {
    return this.#held.size
  }

  /** Of all bytes handed out so far; eight hex digits. */
  get crc32(): string {
    return crc32Hex(this.#crc)
  }

  /** The next block; null at the end or once stopped. Rejects with the source's error, or SOURCE_CHANGED when it ends early. */
  async next(): Promise<Block | null> {
    if (this.#stopped) return null
    const result = await new Promise<IteratorResult<Block> | null>((resolve, reject) => {
      this.#wake = () => resolve(null)
      this.#iterator.next().then((late) => {
        if (this.#stopped && !late.done) late.value.release()
        resolve(late)
      }, reject)
    })
    if (this.#stopped || result === null) return null
    if (result.done) {
      if (this.#takenBytes === this.#sizeBytes) return null
      throw new IngestError('SOURCE_CHANGED', `the source ended after ${this.#takenBytes} of ${this.#sizeBytes} bytes`)
    }
    const block = result.value
    this.#held.add(block)
    const expected = Math.min(this.#blockBytes, this.#sizeBytes - this.#takenBytes)
    if (block.bytes.length !== expected) {
      throw new IngestError('INTERNAL', `a block of ${block.bytes.length} bytes where ${expected} were due`)
    }
    this.#takenBytes += expected
    this.#crc = crc32(block.bytes, this.#crc)
    return block
  }

  release(block: Block): void {
    if (this.#held.delete(block)) block.release()
  }

  /** Idempotent. Releases every block still held; the source is told, but not waited for. */
  stop(): void {
    if (this.#stopped) return
    this.#stopped = true
    for (const block of [...this.#held]) this.release(block)
    this.#wake()
    this.#iterator.return?.().catch(() => {})
  }
}
