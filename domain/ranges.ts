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
const USUAL_PART_BYTES = 16 * 1024 * 1024

/**
 * Parts of 16 MiB (a crash reads at most those in flight again), larger only where the store's limit on their
 * number asks for it. null: the file does not fit the store at all.
 */
export function planParts(sizeBytes: number, limits: PartLimits): PartPlan | null {
  if (sizeBytes > limits.maxObjectBytes) return null
  const needed = Math.ceil(sizeBytes / limits.maxParts)
  const mebibyte = 1024 * 1024
  const partBytes = Math.max(USUAL_PART_BYTES, limits.minPartBytes, Math.ceil(needed / mebibyte) * mebibyte)
  if (partBytes > limits.maxPartBytes) return null
  return { partBytes, count: Math.max(1, Math.ceil(sizeBytes / partBytes)) }
}

/** The bytes of part `number` (from 1). */
export function partRange(plan: PartPlan, sizeBytes: number, number: number): { start: number; length: number } {
  const start = (number - 1) * plan.partBytes
  return { start, length: Math.min(plan.partBytes, sizeBytes - start) }
}
