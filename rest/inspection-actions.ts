/** REST actions that look at a partner's server and change nothing. The partner's failures are answers, not errors. */
import type { ServiceSchema } from 'moleculer'
import type { RecordedError } from '../domain/errors.ts'
import type { Explained } from '../domain/explain.ts'
import type { ServerRecord } from '../domain/server.ts'
import type { Browsed } from '../workers/browse.ts'
import type { DryRun } from '../workers/dry-run.ts'
import { integer, onlyQuery, type RestContext, refuse, text } from './request.ts'
import { explainedView, failureView, scanView } from './views.ts'

export const inspectionAliases = {
  'GET servers/:id/browse': 'api.browseServer',
  'GET servers/:id/explain': 'api.explainPath'
}

type Answer<T> = T & { error: RecordedError | null }

export const inspectionActions: NonNullable<ServiceSchema['actions']> = {
  browseServer: {
    role: 'operator',
    timeout: 0,
    async handler(ctx: RestContext) {
      onlyQuery(ctx, ['path', 'cursor', 'limit'])
      const path = text(ctx, 'path') ?? '/'
      const limit = integer(ctx, 'limit', { min: 1, max: 500 }) ?? 100
      const after = nameAfter(ctx)
      const { _id: id } = await serverOf(ctx)
      const asked = { id, path, limit, ...(after === undefined ? {} : { after }) }
      const page = await ctx.call<Answer<Browsed>, object>('scanner.browse', asked, { timeout: 0 })
      const nextCursor = page.lastName === null ? null : Buffer.from(page.lastName).toString('base64url')
      const items = page.items.map(explainedView)
      return { path: page.path, items, nextCursor, total: page.total, error: failureView(page.error) }
    }
  },

  explainPath: {
    role: 'operator',
    timeout: 0,
    async handler(ctx: RestContext) {
      onlyQuery(ctx, ['path'])
      const path = text(ctx, 'path') ?? refuse('path', 'is required')
      const server = await serverOf(ctx)
      const request = { id: server._id, path }
      const { error, ...explained } = await ctx.call<Answer<Explained>, object>('scanner.explain', request, {
        timeout: 0
      })
      const why = [error ? `the server could not be asked: ${error.message}` : '', explained.why, standing(server)]
      return {
        ...explainedView({ ...explained, why: why.filter(Boolean).join('; ') }),
        error: failureView(error),
        server: { id: server._id, name: server.name, state: server.state, nextScanAt: timeOf(server) }
      }
    }
  }
}

/** What a scan of this server would do; nothing is changed. */
export async function dryRunOf(ctx: RestContext, server: ServerRecord) {
  onlyQuery(ctx, ['dryRun', 'wait', 'limit'])
  const limit = integer(ctx, 'limit', { min: 1, max: 1000 }) ?? 1000
  const { _id: id } = server
  const answer = await ctx.call<Answer<DryRun>, object>('scanner.dryRun', { id, limit }, { timeout: 0 })
  const { items, leftOut, verdicts, problem, error, ...summary } = answer
  const failed = error ?? problem
  return {
    dryRun: true,
    ...scanView({ ...summary, ...(failed ? { error: failed } : {}) }),
    verdicts,
    items: items.map(explainedView),
    leftOut
  }
}

function standing({ state }: ServerRecord): string {
  return state === 'active' ? '' : `the server is ${state}: nothing happens until it is resumed`
}

function timeOf({ state, nextScanAt }: ServerRecord): string | null {
  return state === 'active' ? new Date(nextScanAt).toISOString() : null
}

function serverOf(ctx: RestContext): Promise<ServerRecord> {
  return ctx.call('servers.resolve', { ref: ctx.params.params.id })
}

/** The last name of the page before. */
function nameAfter(ctx: RestContext): string | undefined {
  const cursor = text(ctx, 'cursor')
  if (cursor === undefined) return undefined
  const name = Buffer.from(cursor, 'base64url').toString('utf8')
  const isOurs = Buffer.from(name).toString('base64url') === cursor
  return isOurs ? name : refuse('cursor', 'take nextCursor of the page before')
}
