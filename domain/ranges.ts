/** How a file is cut into the parts of a multipart upload. */
export interface PartPlan {
  partBytes: number
  count: number
}

interface PartLimits {
  minPartBytes: number
  maxPartBytes: number
  maxParts: number
  maxObjectBytes: number
}

/** Files up to this size travel as one read and one PUT, held in one bounded buffer. */
export const SMALL_FILE_BYTES = 5 * 1024 * 1024
const mebibyte = 1024 * 1024
const USUAL_PART_BYTES = 16 * mebibyte
const LONG_PART_BYTES = 64 * mebibyte

/**
 * Parts of 16 MiB: what is on its way at a crash is read again, and must have ended when a worker stops. `areLong`, where
 * that much more is a matter of a moment: half of the file, up to 64 MiB, since every part costs a store some
 * milliseconds. More only where its limit on their number asks for it. null: the file does not fit the store at all.
 */
export function planParts(sizeBytes: number, limits: PartLimits, areLong = false): PartPlan | null {
  if (sizeBytes > limits.maxObjectBytes) return null
  const half = Math.min(sizeBytes / 2, LONG_PART_BYTES, limits.maxPartBytes)
  const wanted = areLong ? Math.max(USUAL_PART_BYTES, half) : USUAL_PART_BYTES
  const needed = Math.max(wanted, limits.minPartBytes, sizeBytes / limits.maxParts)
  const partBytes = Math.ceil(needed / mebibyte) * mebibyte
  return partBytes > limits.maxPartBytes ? null : partsOf(sizeBytes, partBytes)
}

/** That of an upload whose parts have this size, but for the last. */
export function partsOf(sizeBytes: number, partBytes: number): PartPlan {
  return { partBytes, count: Math.max(1, Math.ceil(sizeBytes / partBytes)) }
}

/** The bytes of part `number` (from 1). */
export function partRange(plan: PartPlan, sizeBytes: number, number: number): { start: number; length: number } {
  const start = (number - 1) * plan.partBytes
  return { start, length: Math.min(plan.partBytes, sizeBytes - start) }
}
