/** Records as the API answers them: only what the contract names, times as RFC 3339, never a secret. */
import type { AfterUploadState } from '../domain/after-upload.ts'
import type { RecordedError } from '../domain/errors.ts'
import type { Explained } from '../domain/explain.ts'
import type { FileRecord } from '../domain/file-record.ts'
import type { ScanSummary, ServerRecord } from '../domain/server.ts'
import type { Tallies, Window } from '../domain/timeline.ts'

const time = (at: number | null): string | null => (at === null ? null : new Date(at).toISOString())
const failure = (error: RecordedError | null) => (error ? { ...error, at: time(error.at) } : null)

/** `error`: of a scan that was asked for and failed. */
export function scanView(scan: (ScanSummary & { error?: RecordedError }) | null) {
  if (!scan) return null
  const { startedAt, error, ...counts } = scan
  return {
    ...counts,
    ...(startedAt ? { startedAt: time(startedAt) } : {}),
    ...(error ? { error: failure(error) } : {})
  }
}

export function serverView(server: ServerRecord) {
  const {
    _id,
    revision: _revision,
    edition: _edition,
    secrets,
    slots: _slots,
    slotWantedUntil: _wanted,
    scanEpoch: _epoch,
    scanLeaseUntil,
    nextTickAt,
    lastScanner: _scanner,
    generation: _generation,
    deletedAt: _deleted,
    removal: _removal,
    ...fields
  } = server
  return {
    id: _id,
    ...fields,
    hasPassword: secrets.password !== undefined,
    hasPrivateKey: secrets.privateKey !== undefined,
    lastError: failure(server.lastError),
    lastScanAt: time(server.lastScanAt),
    nextScanAt: time(scanLeaseUntil > 0 ? nextTickAt : server.nextScanAt),
    lastScan: scanView(server.lastScan),
    createdAt: time(server.createdAt),
    updatedAt: time(server.updatedAt)
  }
}

function objectView(object: FileRecord['object']) {
  if (!object) return null
  const { crc32: _crc32, storedAt, ...shown } = object
  return { ...shown, storedAt: time(storedAt) }
}

function afterUploadView({ status, attempts, movedTo, at, error }: AfterUploadState) {
  return { status, attempts, movedTo, at: time(at), error: failure(error) }
}

/** `history` is there only where the record was asked for by itself. */
export function fileView(file: Omit<FileRecord, 'history'> & { history?: FileRecord['history'] }) {
  const { object } = file
  const announcement = file.announcement ?? file.refetch?.announcement
  return {
    id: file._id,
    serverId: file.serverId,
    serverName: file.serverName,
    path: file.path,
    filename: file.filename,
    version: file.version,
    size: file.size,
    mtime: time(file.mtime),
    status: file.status,
    reason: file.reason,
    attempts: file.attempts,
    error: failure(file.error),
    object: objectView(object),
    notification: announcement
      ? {
          status: announcement.status,
          at: time(announcement.at),
          messageId: announcement.messageId,
          error: failure(announcement.error)
        }
      : null,
    afterUpload: file.afterUpload ? afterUploadView(file.afterUpload) : null,
    progress: file.progress,
    createdAt: time(file.createdAt),
    updatedAt: time(file.updatedAt),
    ...(file.history
      ? {
          history: file.history.map((entry) => ({ ...entry, at: time(entry.at) })),
          historyDropped: file.historyDropped
        }
      : {})
  }
}

/** Times in ms. */
export interface TimelineAnswer extends Window {
  items: { at: number; tallies: Tallies }[]
}

export function timelineView({ resolution, since, until, items }: TimelineAnswer) {
  return {
    resolution,
    since: time(since),
    until: time(until),
    items: items.map(({ at, tallies }) => ({ at: time(at), ...tallies }))
  }
}

export function explainedView<E extends Explained>(explained: E) {
  return { ...explained, mtime: time(explained.mtime), nextAt: time(explained.nextAt) }
}

export { failure as failureView }
