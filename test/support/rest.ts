/** A client of the REST API, as small as a test needs it. */
import { setTimeout as delay } from 'node:timers/promises'

// biome-ignore lint/suspicious/noExplicitAny: what the program answers is judged by the tests, not by types
export type Json = any

export interface Answer {
  status: number
  headers: Headers
  body: Json
}

export interface RestClient {
  /** `body` is sent as JSON, but for a string, which is sent as it is. */
  request(method: string, path: string, body?: unknown, options?: { key?: string | null }): Promise<Answer>
  /**
   * The body of a 2xx; anything else is thrown with what it said. A 503 that says when to come back is asked again, as
   * every client should (docs/rest.md): after a restart or an outage the processes have to find each other first. Two
   * leases long, which is what Longshore promises. `request` is for whoever wants the 503 itself.
   */
  get(path: string): Promise<Json>
  /** The same; but asked again only where nobody was there to do anything yet. */
  post(path: string, body?: unknown): Promise<Json>
  /** Every file record, page by page. */
  files(query?: string): Promise<Json[]>
}

const PATIENCE_MS = 60_000
/** Sooner than `Retry-After` says: the tests' time is dear, and nobody else asks. */
const ASK_AGAIN_MS = 250

/** Whether the call may be repeated without a second effect. */
function isForLater(method: string, { status, headers, body }: Answer): boolean {
  if (status !== 503 || !headers.has('retry-after')) return false
  return method === 'GET' || /^SERVICE_NOT_(AVAILABLE|FOUND)$/.test(body?.code)
}

export function restClient(base: () => string, key: string): RestClient {
  const client: RestClient = {
    async request(method, path, body, options = {}) {
      const bearer = options.key === undefined ? key : options.key
      const response = await fetch(`${base()}/api/v1${path}`, {
        method,
        headers: {
          ...(bearer === null ? {} : { authorization: `Bearer ${bearer}` }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' })
        },
        body: body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
      })
      const text = await response.text()
      const isJson = /json/.test(response.headers.get('content-type') ?? '')
      return { status: response.status, headers: response.headers, body: isJson && text ? JSON.parse(text) : text }
    },
    get: (path) => expectOk('GET', path),
    post: (path, body) => expectOk('POST', path, body),
    async files(query = '') {
      const items: Json[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const page: Json = await client.get(
          `/files?limit=500${query}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`
        )
        items.push(...page.items)
        cursor = page.nextCursor
      }
      return items
    }
  }

  async function expectOk(method: string, path: string, body?: unknown): Promise<Json> {
    const giveUpAt = Date.now() + PATIENCE_MS
    let answer = await client.request(method, path, body)
    while (isForLater(method, answer) && Date.now() < giveUpAt) {
      await delay(ASK_AGAIN_MS)
      answer = await client.request(method, path, body)
    }
    if (answer.status >= 200 && answer.status < 300) return answer.body
    throw new Error(`${method} ${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`)
  }
  return client
}
