/**
 * CRC-32 (ISO 3309) of two runs of bytes laid end to end, from their checksums and the length of the second alone:
 * so parts checked one by one, in any order and by any process, prove the whole. Follows crc32_combine of zlib
 * (Mark Adler, https://github.com/madler/zlib/blob/v1.2.11/crc32.c): appending n zero bytes to a message is a linear
 * map of its CRC over GF(2), and the powers of that map are found by squaring.
 */
type Matrix = Uint32Array

/** The polynomial of CRC-32, bit-reversed. */
const polynomial = 0xedb88320

/** The checksum of A followed by B. Checksums are unsigned 32-bit numbers; `lengthB` is in bytes, up to 2^53 - 1. */
export function crc32Combine(crcA: number, crcB: number, lengthB: number): number {
  if (!Number.isSafeInteger(lengthB) || lengthB < 0) throw new RangeError(`not a length: ${lengthB}`)
  let crc = crcA >>> 0
  let left = lengthB
  for (let power = 0; left > 0; power++) {
    if (left % 2 === 1) crc = times(zeroBytes(power), crc)
    left = Math.floor(left / 2)
  }
  return (crc ^ crcB) >>> 0
}

/** The checksum of a whole from those of its pieces, in their order. */
export function crc32Of(pieces: Iterable<{ crc32: string; sizeBytes: number }>): string {
  let crc = 0
  for (const piece of pieces) crc = crc32Combine(crc, crc32FromHex(piece.crc32), piece.sizeBytes)
  return crc32Hex(crc)
}

/** Eight lower-case hex digits. */
export function crc32Hex(crc: number): string {
  return (crc >>> 0).toString(16).padStart(8, '0')
}

/** Throws a RangeError for anything but eight hex digits. */
export function crc32FromHex(hex: string): number {
  if (!/^[0-9a-f]{8}$/i.test(hex)) throw new RangeError(`not a CRC-32: ${hex}`)
  return Number.parseInt(hex, 16)
}

/** The form that S3 uses: base64 of the four bytes, most significant first. */
export function crc32HexToBase64(hex: string): string {
  crc32FromHex(hex)
  return Buffer.from(hex, 'hex').toString('base64')
}

/** null for what is not the base64 of four bytes, such as a checksum of checksums (`...-3`). */
export function crc32Base64ToHex(base64: string): string | null {
  return /^[A-Za-z0-9+/]{6}==$/.test(base64) ? Buffer.from(base64, 'base64').toString('hex') : null
}

/** By power p: the map that appends 2^p zero bytes. Filled as asked for; 53 of them at most. */
const powers: Matrix[] = []

function zeroBytes(power: number): Matrix {
  if (powers.length === 0) {
    const oneBit = new Uint32Array(32)
    oneBit[0] = polynomial
    for (let bit = 1; bit < 32; bit++) oneBit[bit] = 2 ** (bit - 1)
    powers.push(square(square(square(oneBit))))
  }
  while (powers.length <= power) powers.push(square(powers[powers.length - 1]!))
  return powers[power]!
}

function times(matrix: Matrix, vector: number): number {
  let sum = 0
  for (let bit = 0, left = vector; left !== 0; bit++, left >>>= 1) if (left & 1) sum ^= matrix[bit]!
  return sum >>> 0
}

function square(matrix: Matrix): Matrix {
  return matrix.map((column) => times(matrix, column))
}
