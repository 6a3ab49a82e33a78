/** Errors as RFC 9457 problem documents. */
import type { ServerResponse } from 'node:http'
import { isPassing } from '../domain/patience.ts'
import { BODY_LIMIT_BYTES } from './body.ts'

interface Problem {
  type: string
  title: string
  status: number
  detail: string
  code: string
  errors?: { field: string; message: string }[]
}

const titles: Record<number, string> = {
  400: 'Bad request',
  401: 'Not authenticated',
  403: 'Not allowed',
  404: 'Not found',
  405: 'Method not allowed',
  409: 'Conflict',
  412: 'Changed meanwhile',
  413: 'Too large',
  415: 'Unsupported media type',
  416: 'Range not satisfiable',
  422: 'Not valid',
  429: 'Too many requests',
  500: 'Internal error',
  502: 'Partner failed',
  503: 'Not available now',
  504: 'Timed out',
  507: 'Store full'
}

/** Errors of the gateway's own that say too little for whoever gets them: by type, else by code. */
const gatewayErrors: Record<string, Pick<Problem, 'status' | 'code' | 'detail'>> = {
  'entity.too.large': {
    status: 413,
    code: 'BODY_TOO_LARGE',
    detail: `the body is larger than ${BODY_LIMIT_BYTES} bytes`
  },
  'encoding.unsupported': {
    status: 415,
    code: 'BAD_ENCODING',
    detail: 'the Content-Encoding of the body is not known'
  },
  'charset.unsupported': {
    status: 415,
    code: 'BAD_ENCODING',
    detail: 'the charset of the body is not known; send UTF-8'
  },
  Z_DATA_ERROR: { status: 400, code: 'BAD_ENCODING', detail: 'the body is not what its Content-Encoding says' },
  Z_BUF_ERROR: { status: 400, code: 'BAD_ENCODING', detail: 'the body is not what its Content-Encoding says' },
  UNABLE_DECODE_PARAM: {
    status: 400,
    code: 'BAD_PATH',
    detail: 'the path has a % that encodes no character; write %25'
  }
}

interface Wrong {
  field?: unknown
  message?: unknown
}

interface Thrown {
  name?: string
  type?: string
  code?: unknown
  status?: unknown
  message?: string
  /** Of a validator: what is wrong with which fields; of an IngestError: the field, where there is one. */
  data?: Wrong[] | { errors?: Wrong[]; field?: string }
}

function statusOf(error: Thrown): number {
  if (isPassing(error)) return 503
  const code = Number(error.code ?? error.status)
  return code in titles ? code : code >= 400 && code < 500 ? 400 : 500
}

function fieldErrors(error: Thrown): Problem['errors'] {
  const { data } = error
  const wrong = Array.isArray(data) ? data : data?.errors
  if (Array.isArray(wrong)) {
    return wrong.map((one) => ({ field: String(one.field ?? ''), message: String(one.message ?? '') }))
  }
  if (!data || Array.isArray(data) || !data.field) return undefined
  const prefix = `${data.field}: `
  const message = error.message ?? ''
  return [{ field: data.field, message: message.startsWith(prefix) ? message.slice(prefix.length) : message }]
}

function codeOf(error: Thrown, status: number): string {
  if (error.name === 'ValidationError') return 'INVALID'
  if (status === 500) return error.type ?? 'INTERNAL'
  return error.type ?? (titles[status] ?? 'ERROR').toUpperCase().replaceAll(' ', '_')
}

/** Any thrown value as a problem. What is inside an internal error stays in the log. */
export function problemOf(thrown: Thrown | null | undefined): Problem {
  const error = thrown ?? {}
  const known = gatewayErrors[error.type ?? ''] ?? gatewayErrors[String(error.code)]
  if (known) return problem(known)
  const status = statusOf(error)
  const code = codeOf(error, status)
  let detail = error.message ?? ''
  if (status === 500) detail = 'an unexpected error; the log of the api service has it'
  // The gateway's own words for a path that no route has.
  if (status === 404 && detail === 'Not found') detail = 'there is no such call'
  // Moleculer's sentences end in a full stop.
  if (status === 503 && !error.type?.startsWith('STORE')) detail = `${detail.replace(/\.$/, '')}; try again in a moment`
  const errors = [404, 409, 422].includes(status) ? fieldErrors(error) : undefined
  return problem({ status, code, detail, ...(errors ? { errors } : {}) })
}

function problem({ status, code, detail, errors }: Omit<Problem, 'type' | 'title'>): Problem {
  const type = `urn:longshore:problem:${code.toLowerCase().replaceAll('_', '-')}`
  return { type, title: titles[status] ?? 'Error', status, detail, code, ...(errors ? { errors } : {}) }
}

export function sendProblem(response: ServerResponse, error: Thrown): void {
  if (response.headersSent) {
    response.destroy()
    return
  }
  const problem = problemOf(error)
  const body = JSON.stringify(problem)
  const extra: Record<string, string> = problem.status === 401 ? { 'WWW-Authenticate': 'Bearer' } : {}
  if (problem.status === 503 || problem.status === 429) extra['Retry-After'] = '5'
  response.writeHead(problem.status, {
    ...extra,
    'Content-Type': 'application/problem+json; charset=utf-8',
    'Content-Length': Buffer.byteLength(body)
  })
  response.end(body)
}
