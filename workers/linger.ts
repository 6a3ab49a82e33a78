/**
 * A connection that is kept for a while after its work is done: another handshake would be most of the time that one small
 * file takes. Its slot is still held, so it is given back at once when somebody else wants it.
 *
 *   busy --wait--> waiting --ring--> busy
 *                     └── time, yield --> over
 */
export class Linger {
  #end: ((again: boolean) => void) | null = null
  #isOver = false

  get isWaiting(): boolean {
    return this.#end !== null
  }

  /** There is work, and the stay's turn. */
  ring(): void {
    this.#end?.(true)
  }

  /** For good: the slot is wanted, or the worker stops. */
  yield(): void {
    this.#isOver = true
    this.#end?.(false)
  }

  /** Whether to look for work again; false after `forMs` without a bell, and when the connection is to be given back. */
  async wait(forMs: number, closed: AbortSignal): Promise<boolean> {
    if (this.#isOver || closed.aborted) return false
    const lost = () => this.#end?.(false)
    let timer: NodeJS.Timeout | undefined
    try {
      return await new Promise<boolean>((resolve) => {
        this.#end = resolve
        timer = setTimeout(() => resolve(false), forMs)
        closed.addEventListener('abort', lost, { once: true })
      })
    } finally {
      this.#end = null
      clearTimeout(timer)
      closed.removeEventListener('abort', lost)
    }
  }
}
