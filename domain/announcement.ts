/** The message that consumers receive: a CloudEvents 1.0 JSON document (github.com/cloudevents/spec, v1.0.2). */
import { hash } from 'node:crypto'
import type { FileRecord } from './file-record.ts'

/** The same on every resend of the same file version: a UUID made of the record's identity (RFC 9562, version 8). */
export function messageIdOf(fileId: string): string {
  const hex = hash('sha256', `longshore:announcement:${fileId}`)
  const variant = ((Number.parseInt(hex[16]!, 16) & 0x3) | 0x8).toString(16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}

/** `file` is stored: it has its object. */
export function announcementOf(file: FileRecord): { messageId: string; body: Record<string, unknown> } {
  const object = file.object!
  const messageId = messageIdOf(file._id)
  return {
    messageId,
    body: {
      specversion: '1.0',
      id: messageId,
      type: 'longshore.file.uploaded',
      source: `/servers/${file.serverId}`,
      subject: file.path,
      time: new Date(object.storedAt).toISOString(),
      datacontenttype: 'application/json',
      data: {
        fileId: file._id,
        serverId: file.serverId,
        serverName: file.serverName,
        path: file.path,
        filename: file.filename,
        version: file.version,
        size: object.size,
        mtime: new Date(file.mtime).toISOString(),
        bucket: object.bucket,
        key: object.key,
        url: object.url,
        etag: object.etag,
        checksum: object.checksum,
        uploadedAt: new Date(object.storedAt).toISOString()
      }
    }
  }
}
