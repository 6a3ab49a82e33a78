/** The body of a request. What does not belong in it is refused, and none of it is quoted: it may hold credentials. */
import { type RestContext, refuse } from './request.ts'

export const BODY_LIMIT_BYTES = 1024 * 1024

/** The part of V8's messages that quotes nothing of the text. */
const whatIsWrong = /^(Unexpected token '.'|Unexpected end of JSON input|[^"]* in JSON at position .*)/su

/** Throws BAD_JSON for what is not JSON, INVALID for what is no object. No body is an empty one. */
export function jsonBody(text: unknown): Record<string, unknown> {
  if (typeof text !== 'string' || text === '') return {}
  const value = parse(text)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) refuse('body', 'must be a JSON object')
  return value as Record<string, unknown>
}

/** For a call that takes none: an option that was meant for the query must not be passed over in silence. */
export function noBody(ctx: RestContext): void {
  const [name] = Object.keys((ctx.params.body ?? {}) as object)
  if (name !== undefined)
    refuse(name, 'is not a field of this call, which takes no body; its parameters are in the query')
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const wrong = whatIsWrong.exec((error as Error).message)?.[1]
    throw Object.assign(new Error(`the body is not JSON${wrong ? `: ${wrong}` : ''}`), { code: 400, type: 'BAD_JSON' })
  }
}
