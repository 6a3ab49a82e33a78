import type { ClientRequest } from 'node:http'
import { crc32HexToBase64 } from '../../domain/crc32.ts'
import { BlockReader } from './blocks.ts'
import type { StreamedBody } from './s3-request.ts'
import type { PartOptions } from './store.ts'

/** So many blocks may wait for the socket: enough that it never runs dry while the source brings the next. */
const maxUnsentBlocks = 4

/**
 * Blocks in one frame. MinIO reads a frame at a time: with 256 KiB a frame it takes half as much again as with 128 KiB.
 */
const blocksInFrame = 2

const trailerName = 'x-amz-checksum-crc32'

/** Headers of a request whose body is a `partBody`. */
export function partHeaders(options: Pick<PartOptions, 'sizeBytes'>): Record<string, string> {
  return {
    'content-encoding': 'aws-chunked',
    'x-amz-content-sha256': 'STREAMING-UNSIGNED-PAYLOAD-TRAILER',
    'x-amz-decoded-content-length': String(options.sizeBytes),
    'x-amz-trailer': trailerName
  }
}

/**
 * The body of UploadPart: `aws-chunked` frames of a few blocks each, and the CRC-32 of the part as a trailer, so that a part
 * is proved by the store without being buffered or read twice.
 * Format: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
 */
export function partBody(options: PartOptions): StreamedBody & { crc32(): string } {
  const reader = new BlockReader(options)
  let wake: () => void = () => {}
  let isStopped = false
  let hasEnded = false
  return {
    contentLength: encodedLength(options.sizeBytes, options.blockBytes * blocksInFrame),
    crc32: () => reader.crc32,
    stop() {
      isStopped = true
      reader.stop()
      wake()
    },

    async feed(request: ClientRequest, watch): Promise<void> {
      const frameBytes = options.blockBytes * blocksInFrame
      let sentBytes = 0
      watch.rest()
      for (;;) {
        const block = await reader.next()
        if (isStopped || request.destroyed) return
        if (block === null) break
        // Corked, so that a frame's head and its bytes leave in one system call.
        request.cork()
        if (sentBytes % frameBytes === 0) {
          request.write(frameHead(Math.min(frameBytes, options.sizeBytes - sentBytes), sentBytes === 0))
        }
        sentBytes += block.bytes.length
        request.write(block.bytes, () => {
          reader.release(block)
          // While nothing waits to be sent it is the source that is slow: no fault of the store. After the end it is the
          // store's turn, though the last blocks may leave only then.
          if (reader.held === 0 && !hasEnded) watch.rest()
          else watch.arm()
          wake()
        })
        request.uncork()
        watch.arm()
        while (reader.held >= maxUnsentBlocks && !isStopped) {
          await new Promise<void>((resolve) => {
            wake = resolve
          })
        }
      }
      hasEnded = true
      watch.arm()
      request.end(`\r\n0\r\n${trailerName}:${crc32HexToBase64(reader.crc32)}\r\n\r\n`)
    }
  }
}

/** The line break that ends a frame is sent with the head of the next. */
function frameHead(sizeBytes: number, isFirst: boolean): string {
  return `${isFirst ? '' : '\r\n'}${sizeBytes.toString(16)}\r\n`
}

function encodedLength(sizeBytes: number, fullBytes: number): number {
  const frameBytes = (size: number) => size.toString(16).length + 2 + size + 2
  const full = Math.floor(sizeBytes / fullBytes)
  const rest = sizeBytes % fullBytes
  const trailerBytes = `0\r\n${trailerName}:AAAAAA==\r\n\r\n`.length
  return full * frameBytes(fullBytes) + (rest > 0 ? frameBytes(rest) : 0) + trailerBytes
}
