/** An SFTP server that holds one file in memory, which can be looked at and read. */
import { IngestError } from '../../domain/errors.ts'
import type { Attributes, Sftp, SftpFile } from '../../drivers/sftp/sftp.ts'
import type { Block } from '../../drivers/store/store.ts'

export interface MemorySource {
  sftp: Sftp
  /** What the file holds; null: it is gone. */
  bytes: Buffer | null
}

const mtimeSeconds = 1_700_000_000
const READ_BYTES = 256 * 1024

export function memorySource(bytes: Buffer): MemorySource {
  const stat = async (): Promise<Attributes> => {
    if (!source.bytes) throw new IngestError('SFTP_NO_SUCH_PATH', 'the file is gone')
    return { kind: 'file', sizeBytes: source.bytes.length, mtimeSeconds, mode: 0, uid: 0, gid: 0 }
  }
  const blocks: SftpFile['blocks'] = async function* (start, length, { onBytes } = {}): AsyncGenerator<Block> {
    for (let at = start; at < start + length; at += READ_BYTES) {
      const bytes = source.bytes!.subarray(at, Math.min(at + READ_BYTES, start + length))
      onBytes?.(bytes.length)
      yield { bytes, release: () => undefined }
    }
  }
  const file: Partial<SftpFile> = { stat, blocks, readSmall: async () => source.bytes!, close: async () => undefined }
  const sftp: Partial<Sftp> = {
    latencyMs: 1,
    maxChannels: 8,
    readBytes: READ_BYTES,
    closed: new AbortController().signal,
    stat,
    open: async () => file as SftpFile
  }
  const source: MemorySource = { sftp: sftp as Sftp, bytes }
  return source
}

/** Of the file as a record has it: ms since the epoch. */
export const memorySourceMtime = mtimeSeconds * 1000
