/**
 * The ranges that travel over one connection side by side, of however many files: each takes a lane, an SFTP channel of
 * its own, in the order of asking, so that the files share them part by part. More readers than lanes would bring
 * nothing but memory and a store that writes many parts at once.
 *
 *   waiting -> asking (has the lane) -> under way (lane given back: all its READs are out) -> done
 *
 * The next range asks its READs behind the last ones of the one before, so that a lane never runs dry while a part
 * ends at the store. At most twice as many ranges as lanes are on their way, each of which holds a window at most.
 *
 * What is on its way is read again after a crash, and has to end when a worker stops. So where ranges are slow, because the
 * server or the machine is, fewer of them share what there is, and end sooner. Where they do not, since each of them has a
 * limit of its own (a store far away that grants a connection so much), fewer would only copy less: there are as many again.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Sftp } from './sftp/sftp.ts'

/** A round trip of this many milliseconds pays for one more lane: a channel carries 1-2 MiB a round trip. */
const MS_PER_EXTRA_LANE = 10
const USUAL_LANES = 4
/**
 * To a near server. Each lane is a process there (OpenSSH's sftp-server), and four of them share the CPU worse than two:
 * 16 files at once were copied a tenth faster over two.
 */
const NEAR_LANES = 2
const NEAR_MS = 5
/** A lane that carries less waits for the server's storage or for the line, where more of them may bring more. */
const FAST_BYTES_PER_SECOND = 100e6
/** A first range is of 16 MiB, and has to be opened. */
const FIRST_MS = 200
/** A shorter range, the last of a file, tells more of its OPEN than of how fast a lane is. */
const TELLING_BYTES = 4 * 1024 * 1024
/** A range should not be on its way for longer: less than half of what a stop leaves it. */
const SLOW_MS = 10_000
/** Half of them at once should need half the time; with more than three quarters of it they do not share. */
const UNSHARED = 1.5

export interface Lane {
  /** The number of the SFTP channel. */
  channel: number
  /** All READs of the range, of so many bytes, are out: the lane may be taken by the next one. Idempotent. */
  asked(bytes: number): void
  /** Nothing of the range is on its way any more. Idempotent. */
  done(): void
}

interface Waiting {
  begin(): void
}

export class Lanes {
  /** How many there may be. */
  readonly most: number
  readonly #nowMs: () => number
  readonly #free: number[]
  readonly #waiting: Waiting[] = []
  #count: number
  #underWay = 0
  /** Ranges on their way side by side, as far as has been learned how long they take. */
  #atOnce: number
  #learnedMs = Number.NEGATIVE_INFINITY
  /** How long ranges should take with the fewer that were tried. */
  #hopedMs = Number.POSITIVE_INFINITY
  #areApart = false
  /** null: nothing is known yet. */
  #areFast: boolean | null = null
  #firstHasAsked = false
  readonly #firstHasTold = Promise.withResolvers<void>()

  /** `first` of them to begin with, and one more, up to `most`, for each range that a lane carried slowly. */
  constructor(first: number, most = first, nowMs = () => performance.now()) {
    this.most = most
    this.#nowMs = nowMs
    this.#count = Math.min(first, most)
    this.#atOnce = 2 * most
    this.#free = Array.from({ length: this.#count }, (_, channel) => channel)
  }

  /**
   * Whether the last range that tells was carried fast. Of a connection that has just been opened nothing is known: whoever
   * asks first hears no, and whoever asks next waits for the first range, for as long as it may take and be fast.
   */
  async areFast(): Promise<boolean> {
    const isFirst = !this.#firstHasAsked
    this.#firstHasAsked = true
    if (this.#areFast === null && !isFirst && this.#count < this.most) {
      const tooLong = new AbortController()
      const waited = delay(FIRST_MS, undefined, { signal: tooLong.signal }).catch(() => undefined)
      await Promise.race([this.#firstHasTold.promise, waited])
      tooLong.abort()
    }
    return this.#areFast ?? false
  }

  /** Rejects with the signal's reason. */
  take(signal: AbortSignal): Promise<Lane> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason)
      const waiting = {
        begin: () => {
          signal.removeEventListener('abort', abort)
          resolve(this.#lane(this.#free.shift()!))
        }
      }
      const abort = () => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
        reject(signal.reason)
      }
      signal.addEventListener('abort', abort, { once: true })
      this.#waiting.push(waiting)
      this.#admit()
    })
  }

  #admit(): void {
    const atOnce = Math.min(2 * this.#count, this.#atOnce)
    while (this.#waiting.length > 0 && this.#free.length > 0 && this.#underWay < atOnce) {
      this.#waiting.shift()!.begin()
    }
  }

  #lane(channel: number): Lane {
    this.#underWay++
    const beganMs = this.#nowMs()
    let isHeld = true
    let isUnderWay = true
    const giveBack = () => {
      if (!isHeld) return
      isHeld = false
      this.#free.push(channel)
      this.#admit()
    }
    const asked = (bytes: number) => {
      if (isHeld && bytes >= TELLING_BYTES) {
        this.#areFast = bytes * 1000 >= FAST_BYTES_PER_SECOND * (this.#nowMs() - beganMs)
        if (!this.#areFast) this.#addOne()
        this.#firstHasTold.resolve()
      }
      giveBack()
    }
    const done = () => {
      if (!isUnderWay) return
      isUnderWay = false
      // Whoever has asked for nothing has not read.
      if (!isHeld) this.#learn(beganMs)
      this.#underWay--
      giveBack()
      this.#admit()
    }
    return { channel, asked, done }
  }

  #addOne(): void {
    if (this.#count < this.most) this.#free.push(this.#count++)
  }

  /** From a range that has ended. Those that were on their way together are slow together, and teach once. */
  #learn(beganMs: number): void {
    const nowMs = this.#nowMs()
    const tookMs = nowMs - beganMs
    if (tookMs < SLOW_MS / 2) this.#atOnce = Math.min(2 * this.most, this.#atOnce + 1)
    if (tookMs <= SLOW_MS || beganMs < this.#learnedMs || this.#areApart) return
    this.#learnedMs = nowMs
    if (tookMs > UNSHARED * this.#hopedMs) {
      this.#areApart = true
      this.#atOnce = 2 * this.most
      return
    }
    const fewer = Math.max(1, Math.floor((this.#underWay * SLOW_MS) / tookMs))
    this.#hopedMs = (tookMs * fewer) / this.#underWay
    this.#atOnce = fewer
  }
}

const known = new WeakMap<Sftp, Lanes>()

/** Those of this connection. */
export function lanesOf(sftp: Sftp): Lanes {
  const most = Math.min(USUAL_LANES + Math.floor(sftp.latencyMs / MS_PER_EXTRA_LANE), sftp.maxChannels)
  const lanes = known.get(sftp) ?? new Lanes(sftp.latencyMs < NEAR_MS ? NEAR_LANES : most, most)
  known.set(sftp, lanes)
  return lanes
}
