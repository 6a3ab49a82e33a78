/**
 * The announcements of an embedded installation: one CloudEvents document a line. One fsync serves every message that
 * waits when it begins. A line that a crash or a full disk tore is ended before the next one, so that a reader loses
 * that line alone; its message was never acknowledged and comes again.
 */
import type { Stats } from 'node:fs'
import { constants, type FileHandle, mkdir, open } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { IngestError } from '../../domain/errors.ts'
import { isStillNamed } from '../same-file.ts'
import type { Message, Queue } from './queue.ts'

interface Waiting {
  line: string
  resolve(): void
  reject(error: IngestError): void
}

/** The Queue over a file. Its messages are on the disk when `publish` resolves. */
export function journalQueue(options: { path: string; log?: { warn(message: string): void } }): Queue {
  return new JournalQueue(resolve(options.path), options.log)
}

class JournalQueue implements Queue {
  readonly #path: string
  readonly #log: { warn(message: string): void } | undefined
  #file: { handle: FileHandle; stats: Stats } | null = null
  #waiting: Waiting[] = []
  #work: Promise<void> = Promise.resolve()
  #isOpen = false
  #isTorn = false

  constructor(path: string, log: { warn(message: string): void } | undefined) {
    this.#path = path
    this.#log = log
  }

  async open(): Promise<void> {
    this.#isOpen = true
    await this.ping()
  }

  publish({ body }: Message): Promise<void> {
    if (!this.#isOpen) return Promise.reject(this.#unavailable('it is not open'))
    return new Promise((resolve, reject) => {
      this.#waiting.push({ line: `${JSON.stringify(body)}\n`, resolve, reject })
      if (this.#waiting.length === 1) this.#enqueue(() => this.#flush())
    })
  }

  async ping(): Promise<void> {
    if (!this.#isOpen) throw this.#unavailable('it is not open')
    try {
      await this.#enqueue(() => this.#current())
    } catch (error) {
      throw this.#unavailable((error as Error).message, error)
    }
  }

  async close(): Promise<void> {
    this.#isOpen = false
    await this.#enqueue(() => this.#release())
  }

  /** File operations run one after another, in the order of their calls. */
  #enqueue<T>(step: () => Promise<T>): Promise<T> {
    const result = this.#work.then(step)
    this.#work = result.then(
      () => undefined,
      () => undefined
    )
    return result
  }

  async #flush(): Promise<void> {
    const batch = this.#waiting
    this.#waiting = []
    try {
      const file = await this.#current()
      const lines = batch.map(({ line }) => line).join('')
      const text = this.#isTorn ? `\n${lines}` : lines
      await file.appendFile(text)
      this.#isTorn = false
      await file.sync()
      for (const { resolve } of batch) resolve()
    } catch (error) {
      for (const { reject } of batch) reject(this.#unavailable((error as Error).message, error))
      // Reopening looks at the file's real end again.
      await this.#release().catch(() => undefined)
    }
  }

  /** The file behind the path now: after a rotation or a deletion, what is appended to the old one would be lost. */
  async #current(): Promise<FileHandle> {
    if (this.#file !== null) {
      if (isStillNamed(this.#path, this.#file.stats)) return this.#file.handle
      await this.#release()
    }
    await mkdir(dirname(this.#path), { recursive: true })
    const flags = constants.O_RDWR | constants.O_APPEND | constants.O_CREAT
    const file = await open(this.#path, flags, 0o600)
    try {
      const stats = await file.stat()
      const { size } = stats
      const { bytesRead, buffer } = await file.read(Buffer.alloc(1), 0, 1, Math.max(0, size - 1))
      this.#isTorn = bytesRead === 1 && buffer[0] !== 0x0a
      if (this.#isTorn)
        this.#log?.warn(`${this.#path} ends in half a line: its message was not confirmed and comes again`)
      if (size === 0) await syncFolder(dirname(this.#path))
      this.#file = { handle: file, stats }
      return file
    } catch (error) {
      await file.close()
      throw error
    }
  }

  async #release(): Promise<void> {
    const file = this.#file
    this.#file = null
    await file?.handle.close()
  }

  #unavailable(problem: string, cause?: unknown) {
    return new IngestError('QUEUE_UNAVAILABLE', `the journal ${this.#path} cannot be written: ${problem}`, { cause })
  }
}

/** A new file's name is on the disk only when its folder is. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
