/** What a REST action gets, and the reading of its query. An unknown parameter is refused, not ignored. */
import type { Context } from 'moleculer'
import type { Role } from '../config.ts'
import { IngestError } from '../domain/errors.ts'
import type { Caller } from './keys.ts'
import type { WantedBytes } from './range.ts'

declare module 'moleculer' {
  interface ActionSchema {
    /** The least role that may make this REST call. */
    role?: Role | 'anyone'
    /** Milliseconds; 0: none. Moleculer reads it (src/middlewares/timeout.js) and does not declare it. */
    timeout?: number
  }
}

export interface RestParams {
  body: unknown
  query: Record<string, unknown>
  params: Record<string, string>
}

export interface RestMeta {
  $statusCode?: number
  $location?: string
  $responseHeaders?: Record<string, string>
  $responseType?: string
  ifMatch?: string
  /** Headers of a request for bytes. */
  wanted?: WantedBytes
  caller?: Caller
}

export type RestContext = Context<RestParams, RestMeta>

/** INVALID, naming the field. */
export function refuse(field: string, message: string): never {
  throw new IngestError('INVALID', `${field}: ${message}`, { data: { errors: [{ field, message }] } })
}

export function onlyQuery(ctx: RestContext, allowed: string[]): void {
  for (const name of Object.keys(ctx.params.query)) {
    if (!allowed.includes(name))
      refuse(name, `is not a parameter of this call${allowed.length ? ` (it has ${allowed.join(', ')})` : ''}`)
  }
}

export function text(ctx: RestContext, name: string): string | undefined {
  const value = ctx.params.query[name]
  if (value === undefined || value === '') return undefined
  return typeof value === 'string' ? value : refuse(name, 'must be given once')
}

export function flag(ctx: RestContext, name: string): boolean {
  const value = text(ctx, name)
  if (value === undefined || value === 'false') return false
  return value === 'true' ? true : refuse(name, 'must be true or false')
}

/** One of `values`, or undefined. */
export function choice<T extends string>(ctx: RestContext, name: string, values: readonly T[]): T | undefined {
  const value = text(ctx, name)
  if (value === undefined) return undefined
  return values.includes(value as T) ? (value as T) : refuse(name, `must be ${values.join(' or ')}`)
}

export function integer(
  ctx: RestContext,
  name: string,
  { min, max }: { min: number; max: number }
): number | undefined {
  const value = text(ctx, name)
  if (value === undefined) return undefined
  const number = Number(value)
  return Number.isInteger(number) && number >= min && number <= max
    ? number
    : refuse(name, `must be a whole number from ${min} to ${max}`)
}

/** RFC 3339 to ms since the epoch. */
export function time(ctx: RestContext, name: string): number | undefined {
  const value = text(ctx, name)
  if (value === undefined) return undefined
  const at = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?$/.test(value)
    ? Date.parse(value)
    : Number.NaN
  return Number.isNaN(at) ? refuse(name, 'must be a time such as 2030-01-31T08:00:00Z') : at
}

export function listOf<T extends string>(ctx: RestContext, name: string, values: readonly T[]): T[] | undefined {
  const items = text(ctx, name)?.split(',')
  for (const item of items ?? []) {
    if (!values.includes(item as T)) refuse(name, `must be of ${values.join(', ')}`)
  }
  return items as T[] | undefined
}

/** The server that a query names, by id or by name. NOT_FOUND where there is none, and no file of a removed one. */
export async function serverIdOf(ctx: RestContext): Promise<string | undefined> {
  const ref = text(ctx, 'serverId')
  if (!ref) return undefined
  return resolvedId(ctx, ref).catch(async (error: IngestError) => {
    if (error.type !== 'NOT_FOUND') throw error
    // The files of a server that was removed are still found by its id.
    const { items } = await ctx.call<{ items: object[] }, object>('files.list', { serverId: ref, limit: 1 })
    if (items.length > 0) return ref
    throw error
  })
}

/** The id of a server that `serverId` gives by id or by name. NOT_FOUND, naming the field. */
export async function resolvedId(ctx: RestContext, ref: string): Promise<string> {
  try {
    return (await ctx.call<{ _id: string }, object>('servers.resolve', { ref }))._id
  } catch (error) {
    const { type, message } = error as IngestError
    if (type !== 'NOT_FOUND') throw error
    throw new IngestError(type, `serverId: ${message}`, { data: { errors: [{ field: 'serverId', message }] } })
  }
}
