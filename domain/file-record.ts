/** The record of one version of a file, as it is kept. What may become of it is told in file.ts and sighting.ts. */
import { hash } from 'node:crypto'
import type { AfterUploadState } from './after-upload.ts'
import type { RecordedError } from './errors.ts'
import type { SettleState } from './settle.ts'

export const FILE_STATUSES = [
  'settling',
  'pending',
  'downloading',
  'uploaded',
  'notified',
  'failed',
  'skipped',
  'vanished'
] as const
export type FileStatus = (typeof FILE_STATUSES)[number]

export interface ObjectInfo {
  bucket: string
  key: string
  url: string
  etag: string
  size: number
  checksum: { algorithm: 'crc32' | 'sha256'; value: string }
  /** Of the whole file too where `checksum` is another one: a refetch is held against it before it writes. */
  crc32?: string
  storedAt: number
}

/** Multipart upload under way. `uploadId` is null while it is being created: the intent comes first. */
export interface UploadState {
  uploadId: string | null
  partBytes: number
  size: number
  mtime: number
  parts: { number: number; sizeBytes: number; etag: string; crc32: string }[]
}

export interface AnnouncementState {
  status: 'due' | 'sent'
  messageId: string
  attempts: number
  dueAt: number
  epoch: number
  leaseUntil: number
  at: number | null
  error: RecordedError | null
}

/** Of a stored file that an operator wants fetched again. */
export interface RefetchState {
  /** What the record was, and is again when the source cannot be had. */
  status: 'uploaded' | 'notified'
  announcement: AnnouncementState
  /** An object of this epoch or an older one is the copy that was asked to be replaced. */
  epoch: number
}

/** One change of state. */
export interface HistoryEntry {
  at: number
  status: FileStatus
  worker: string | null
  attempt: number
  reason: string | null
  /** How often the same entry came in a row. */
  times: number
}

/** Times are ms since the epoch; `mtime` too, though SFTP knows seconds only. */
export interface FileRecord {
  _id: string
  revision: number
  serverId: string
  serverName: string
  path: string
  filename: string
  version: number
  /** On version 1: the highest version there is. */
  latest: number
  size: number
  mtime: number
  status: FileStatus
  /** Why it is `skipped`, or what a `settling` one waits for. */
  reason: string | null
  settle: SettleState | null
  seenEpoch: number
  attempts: number
  /** Connections in a row that ended under its copy before a part was finished. */
  lostConnections?: number
  epoch: number
  worker: string | null
  /** While somebody copies it, or looks whether it has settled: when that is lost. */
  leaseUntil: number
  /** When there is something to do next: the next look (settling), the next try (pending). */
  dueAt: number
  /** In which order pending files are claimed, see order.ts. */
  turn: string
  error: RecordedError | null
  /** Unique among all records; absent until the first claim. */
  reservedKey?: string
  upload: UploadState | null
  /** Parts that were finished when the present worker came: more of them by now mean that it got on. */
  partsAtClaim: number
  object: ObjectInfo | null
  announcement: AnnouncementState | null
  /** While a stored file is copied again: what it was before. */
  refetch: RefetchState | null
  afterUpload?: AfterUploadState | null
  /** The source was deleted or moved away by us, or found replaced: the next file of this name is a new version. */
  released: boolean
  progress: { bytes: number; bytesPerSecond: number } | null
  history: HistoryEntry[]
  historyDropped: number
  createdAt: number
  updatedAt: number
}

export const LEASE_MS = 30_000
export const RENEW_MS = 10_000
/** Skew allowed between the clocks of two `files` instances. */
export const SKEW_MS = 5_000
/** Of a file that is tried from the first attempt on. */
export const UNTRIED = { attempts: 0, lostConnections: 0 }
/** Why nothing more is done for a file of a server that was removed. */
export const SERVER_DELETED = 'server deleted'

/** The identity of a version: 24 characters of a SHA-256, so that a registration is an idempotent insert. */
export function fileId(serverId: string, path: string, version: number): string {
  return hash('sha256', `${serverId}\0${path}\0${version}`, 'base64url').slice(0, 24)
}

export function isStored(file: FileRecord): boolean {
  return file.status === 'uploaded' || file.status === 'notified'
}
