/** Errors as RFC 9457 problem documents. */
import type { ServerResponse } from 'node:http'
import { isPassing } from '../domain/patience.ts'

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
  return [{ field: data.field, message: error.message ?? '' }]
}

function codeOf(error: Thrown, status: number): string {
  if (error.name === 'ValidationError') return 'INVALID'
  if (error.type === 'entity.parse.failed') return 'BAD_JSON'
  return error.type ?? (titles[status] ?? 'ERROR').toUpperCase().replaceAll(' ', '_')
}

/** Any thrown value as a problem. What is inside an internal error stays in the log. */
export function problemOf(thrown: Thrown | null | undefined): Problem {
  const error = thrown ?? {}
  const status =
    error.type === 'entity.parse.failed' || error.name === 'UnprocessableEntityError' ? 400 : statusOf(error)
  const code = codeOf(error, status)
  let detail = error.message ?? ''
  if (status === 500) detail = 'an unexpected error; the log of the api service has it'
  if (code === 'BAD_JSON') detail = `the body is not JSON: ${error.message}`
  if (status === 503 && !error.type?.startsWith('STORE')) detail = `${detail}; try again in a moment`
  const errors = status === 422 || status === 409 ? fieldErrors(error) : undefined
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
