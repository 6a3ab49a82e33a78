/**
 * Signature Version 4 in the Authorization header:
 * https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
 *
 * Ours, because aws4 takes twice as long, a tenth of what a small file costs: it makes the key of its HMAC anew from bytes
 * each time, and takes a path apart that we have just put together.
 */
import { createHmac, createSecretKey, hash, type KeyObject } from 'node:crypto'

export interface Credentials {
  accessKey: string
  secretKey: string
  region: string
}

export interface Unsigned {
  method: string
  /** Percent-encoded once, as it travels. */
  path: string
  /** `name=value`, both percent-encoded. */
  query: string[]
  /** Names in lower case, `host` and `x-amz-content-sha256` among them; values without spaces around them or runs of spaces. */
  headers: Record<string, string>
}

const algorithm = 'AWS4-HMAC-SHA256'

/** Proxies may change or drop it. */
const unsignedHeader = 'expect'

export class Signer {
  readonly #credentials: Credentials
  /** Good for one day, of UTC. */
  #key: { date: string; secret: KeyObject } | null = null

  constructor(credentials: Credentials) {
    this.#credentials = credentials
  }

  /** All headers, with `x-amz-date` and `authorization`: names and values by turns, which Node sends as they are. */
  sign({ method, path, query, headers }: Unsigned, now = new Date()): string[] {
    const time = compact(now.toISOString())
    const date = time.slice(0, 8)
    const scope = `${date}/${this.#credentials.region}/s3/aws4_request`
    const dated: Record<string, string> = { ...headers, 'x-amz-date': time }
    const sent: string[] = []
    const signed: string[] = []
    let lines = ''
    for (const name of Object.keys(dated).sort()) {
      const value = dated[name]!
      sent.push(name, value)
      if (name === unsignedHeader) continue
      signed.push(name)
      lines += `${name}:${value}\n`
    }
    const names = signed.join(';')
    const asked = (query.length > 1 ? query.toSorted() : query).join('&')
    const request = `${method}\n${path}\n${asked}\n${lines}\n${names}\n${headers['x-amz-content-sha256']}`
    const signature = createHmac('sha256', this.#secretOf(date))
      .update(`${algorithm}\n${time}\n${scope}\n${hash('sha256', request)}`)
      .digest('hex')
    const credential = `${this.#credentials.accessKey}/${scope}`
    sent.push('authorization', `${algorithm} Credential=${credential}, SignedHeaders=${names}, Signature=${signature}`)
    return sent
  }

  #secretOf(date: string): KeyObject {
    if (this.#key?.date === date) return this.#key.secret
    const { secretKey, region } = this.#credentials
    const key = [date, region, 's3', 'aws4_request'].reduce(
      (secret, part) => createHmac('sha256', secret).update(part).digest(),
      Buffer.from(`AWS4${secretKey}`)
    )
    this.#key = { date, secret: createSecretKey(key) }
    return this.#key.secret
  }
}

/** `2026-01-02T03:04:05.678Z` as `20260102T030405Z`. */
function compact(time: string): string {
  return `${time.slice(0, 4)}${time.slice(5, 7)}${time.slice(8, 13)}${time.slice(14, 16)}${time.slice(17, 19)}Z`
}
