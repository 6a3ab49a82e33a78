import { crc32Base64ToHex, crc32HexToBase64 } from '../../domain/crc32.ts'
import { xml } from './s3-errors.ts'
import type { StoredPart } from './store.ts'

export interface ListedUpload {
  key: string
  uploadId: string
  initiatedAt: number
}

/** An etag without the quotes around it, however they were written. */
export function bareEtag(etag: string | undefined): string {
  return (etag ?? '').replace(/^(?:"|&quot;|&#34;)|(?:"|&quot;|&#34;)$/g, '')
}

/** The body of CompleteMultipartUpload. */
export function completeBody(parts: StoredPart[]): Buffer {
  const rows = [...parts]
    .sort((a, b) => a.number - b.number)
    .map(
      ({ number, etag, crc32 }) =>
        `<Part><PartNumber>${number}</PartNumber><ETag>"${escapeXml(etag)}"</ETag>` +
        `<ChecksumCRC32>${crc32HexToBase64(crc32)}</ChecksumCRC32></Part>`
    )
  const namespace = 'http://s3.amazonaws.com/doc/2006-03-01/'
  return Buffer.from(`<CompleteMultipartUpload xmlns="${namespace}">${rows.join('')}</CompleteMultipartUpload>`)
}

/** One page of ListParts; a part without a CRC-32 of its own is left out, so that it is sent again. */
export function parseParts(body: string): { parts: StoredPart[]; next: string | null } {
  const list = xml.parse(body.trim()).ListPartsResult ?? {}
  const parts: StoredPart[] = []
  for (const part of (list.Part ?? []) as Record<string, string>[]) {
    const crc32 = crc32Base64ToHex(part.ChecksumCRC32 ?? '')
    if (crc32 === null) continue
    parts.push({ number: Number(part.PartNumber), sizeBytes: Number(part.Size), etag: bareEtag(part.ETag), crc32 })
  }
  return { parts, next: list.IsTruncated === 'true' ? list.NextPartNumberMarker : null }
}

/** One page of ListMultipartUploads, asked for with `encoding-type=url`. */
export function parseUploads(body: string): {
  uploads: ListedUpload[]
  next: { key: string; uploadId: string } | null
} {
  const list = xml.parse(body.trim()).ListMultipartUploadsResult ?? {}
  const decode = (text = '') => (list.EncodingType === 'url' ? decodeURIComponent(text.replace(/\+/g, ' ')) : text)
  const uploads = ((list.Upload ?? []) as Record<string, string>[]).map((upload) => ({
    key: decode(upload.Key),
    uploadId: upload.UploadId!,
    initiatedAt: Date.parse(upload.Initiated!)
  }))
  const isTruncated = list.IsTruncated === 'true'
  return {
    uploads,
    next: isTruncated ? { key: decode(list.NextKeyMarker), uploadId: list.NextUploadIdMarker ?? '' } : null
  }
}

/** The answer to CompleteMultipartUpload: an error may come with status 200, after a pause. */
export function parseCompleted(body: string): { etag: string; crc32: string | null; isError: boolean } {
  const answer = xml.parse(body.trim())
  const result = answer.CompleteMultipartUploadResult ?? {}
  return {
    etag: bareEtag(result.ETag),
    crc32: crc32Base64ToHex(result.ChecksumCRC32 ?? ''),
    isError: answer.CompleteMultipartUploadResult === undefined
  }
}

/** What most metadata is: neither space, `%` nor `=`. */
const travelsAsIs = /^[!-$&-<>-~]*$/

/**
 * Metadata as headers, which carry ASCII only and fold runs of spaces: `%` and whatever would not arrive as it is are
 * percent-encoded. `=?` is, too: some stores take it for RFC 2047 and decode it.
 */
export function metadataHeaders(metadata: Record<string, string>): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(metadata)) {
    const header = `x-amz-meta-${name.toLowerCase()}`
    headers[header] = value
    if (travelsAsIs.test(value)) continue
    headers[header] = value
      .toWellFormed()
      .replace(/[^\x20-\x7e]+|%|^ | $| (?= )|=(?=\?)/gu, (text) =>
        Array.from(Buffer.from(text), (byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
      )
  }
  return headers
}

/** Metadata from the headers of HEAD or GET; a value that was written by someone else and is no encoding stays as it is. */
export function parseMetadata(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  const metadata: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith('x-amz-meta-')) continue
    const text = Array.isArray(value) ? value.join(', ') : (value ?? '')
    metadata[name.slice('x-amz-meta-'.length)] = decodeOr(text)
  }
  return metadata
}

function decodeOr(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function escapeXml(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`)
}
