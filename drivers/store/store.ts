/**
 * What Longshore needs of an object store. `s3.ts` (MinIO or any S3) and `filesystem.ts` implement it and pass
 * test/contract/store.contract.ts. Every failure is an IngestError of type STORE_* or CHECKSUM_MISMATCH.
 */
export interface StoredObject {
  key: string
  sizeBytes: number
  etag: string
  /** Eight lower-case hex digits of the whole object, where the store knows it. */
  crc32: string | null
  /** Lower-case names. Values are any text: the driver encodes what its store cannot carry. */
  metadata: Record<string, string>
}

export interface StoredPart {
  number: number
  sizeBytes: number
  etag: string
  /** Eight lower-case hex digits. */
  crc32: string
}

/** A piece of a file on its way. `release` tells its owner that the bytes have left and the buffer may be reused. */
export interface Block {
  bytes: Buffer
  release(): void
}

/** A write happens only while this holds: nothing is there yet, or exactly this version is. 412 otherwise. */
export type Condition = { ifNoneMatch: '*' } | { ifMatch: string } | null

export interface PutOptions {
  metadata: Record<string, string>
  /** Eight hex digits of `body`, checked by the store. */
  crc32: string
  condition: Condition
  signal?: AbortSignal
}

export interface PartOptions {
  number: number
  sizeBytes: number
  /** Blocks of exactly `blockBytes` each, but for the last; together `sizeBytes`. A source that ends early or throws fails the part. */
  blocks: AsyncIterable<Block>
  blockBytes: number
  signal?: AbortSignal
}

export interface CompleteOptions {
  parts: StoredPart[]
  sizeBytes: number
  /** Combined from the parts; held against what the store answers. */
  crc32: string
  condition: Condition
  signal?: AbortSignal
}

export interface ByteRange {
  /** First byte. */
  start: number
  /** Last byte, included. */
  end: number
}

export interface ObjectStore {
  readonly bucket: string
  /** Limits that a plan of parts must keep. */
  readonly limits: { minPartBytes: number; maxPartBytes: number; maxParts: number; maxObjectBytes: number }
  /** Creates the bucket (folder) when it is missing; rejects with STORE_UNAVAILABLE or STORE_DENIED otherwise. */
  ensureReady(): Promise<void>
  /** null: no such object. */
  head(key: string, signal?: AbortSignal): Promise<StoredObject | null>
  /** As `completeUpload`, answers the CRC32 that the store has found; null where it says none. */
  put(key: string, body: Buffer, options: PutOptions): Promise<StoredObject>
  /**
   * Answers the upload's id. The condition keeps one from being begun that is of no use any more, where the store knows
   * such a thing; it is asked again at the end.
   */
  createUpload(key: string, metadata: Record<string, string>, condition: Condition): Promise<string>
  uploadPart(key: string, uploadId: string, options: PartOptions): Promise<StoredPart>
  /** Parts that the store already has. STORE_NO_SUCH_UPLOAD when it knows no such upload. */
  listParts(key: string, uploadId: string, signal?: AbortSignal): Promise<StoredPart[]>
  /** Uploads under way for exactly this key. */
  listUploads(key: string): Promise<{ uploadId: string; initiatedAt: number }[]>
  /** Uploads of the whole bucket under way since before `initiatedBefore` (ms), at most 1,000. */
  listStaleUploads(initiatedBefore: number): Promise<{ key: string; uploadId: string; initiatedAt: number }[]>
  completeUpload(key: string, uploadId: string, options: CompleteOptions): Promise<StoredObject>
  /** Idempotent. */
  abortUpload(key: string, uploadId: string): Promise<void>
  /** The bytes of an object. STORE_NO_SUCH_OBJECT when it is not there. */
  read(key: string, options?: { range?: ByteRange; signal?: AbortSignal }): Promise<NodeJS.ReadableStream>
  /** Idempotent. */
  remove(key: string): Promise<void>
  /** The address that consumers see; does not expire, is not signed. */
  url(key: string): string
  /** An address that anyone may GET for a while, or null where the store has no such thing (then read through the API). */
  presignedUrl(key: string, options: { expiresSeconds: number; disposition: string }): Promise<string | null>
  /** Frees sockets. */
  close(): Promise<void>
}
