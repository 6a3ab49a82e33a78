/** Blocks are a few sizes used over and over; taking each anew would cost a zeroed page fault per block. */

/** What one pool keeps for later at most; more than this in use at once is allocated and dropped. */
const keptBytes = 16 * 1024 * 1024

export interface BufferPool {
  take(): Buffer
  /** Only for a buffer that nothing reads or writes any more. */
  give(buffer: Buffer): void
}

const pools = new Map<number, BufferPool>()

/** The process's pool of buffers of this size. */
export function poolOf(bytes: number): BufferPool {
  const pool = pools.get(bytes) ?? makePool(bytes)
  pools.set(bytes, pool)
  return pool
}

function makePool(bytes: number): BufferPool {
  const free: Buffer[] = []
  const most = Math.ceil(keptBytes / bytes)
  return {
    take: () => free.pop() ?? Buffer.allocUnsafeSlow(bytes),
    give: (buffer) => {
      if (free.length < most) free.push(buffer)
    }
  }
}
