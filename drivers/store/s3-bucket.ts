import { Client } from 'minio'
import { answerError, connectionError } from './s3-errors.ts'

export interface BucketOptions {
  endpoint: string
  accessKey: string
  secretKey: string
  bucket: string
  region: string
  silenceMs?: number
}

const deniedCodes = ['AccessDenied', 'InvalidAccessKeyId', 'SignatureDoesNotMatch', 'RequestTimeTooSkewed']

/** Makes the bucket where it is missing. STORE_DENIED or STORE_UNAVAILABLE otherwise. */
export async function ensureBucket(options: BucketOptions): Promise<void> {
  const { bucket, region, silenceMs } = options
  const minio = minioClient(options)
  try {
    if (await withDeadline(minio.bucketExists(bucket), silenceMs)) return
    await withDeadline(minio.makeBucket(bucket, region), silenceMs)
  } catch (error) {
    const { code = '' } = error as { code?: string }
    if (code === 'BucketAlreadyOwnedByYou') return
    if (deniedCodes.includes(code)) throw answerError(403, '', `bucket ${bucket} (${code})`)
    throw connectionError(error, `bucket ${bucket}`)
  }
}

/** A signed address of an object. Made without asking the store; the endpoint's host is part of the signature. */
export function presign(
  options: BucketOptions,
  key: string,
  { expiresSeconds, disposition }: { expiresSeconds: number; disposition: string }
): Promise<string> {
  return minioClient(options).presignedGetObject(options.bucket, key, expiresSeconds, {
    'response-content-disposition': disposition
  })
}

function minioClient({ endpoint, accessKey, secretKey, region }: BucketOptions): Client {
  const { hostname, port, protocol } = new URL(endpoint)
  const useSSL = protocol === 'https:'
  const defaultPort = useSSL ? 443 : 80
  return new Client({
    endPoint: hostname,
    port: port === '' ? defaultPort : Number(port),
    useSSL,
    accessKey,
    secretKey,
    // Without it minio-js asks for the bucket's region first.
    region,
    pathStyle: true,
    // Its retry writes to the console, and hides what the first answer said.
    retryOptions: { disableRetry: true }
  })
}

/** minio-js waits for ever for a server that accepts and says nothing. */
async function withDeadline<T>(work: Promise<T>, timeoutMs = 30_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
