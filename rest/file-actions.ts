/** REST actions of files. */
import type { ServiceSchema } from 'moleculer'
import { FILE_STATUSES, type FileRecord } from '../domain/file-record.ts'
import { noBody } from './body.ts'
import { integer, listOf, onlyQuery, type RestContext, refuse, resolvedId, serverIdOf, text, time } from './request.ts'
import { fileView } from './views.ts'

export const fileAliases = {
  'GET files': 'api.listFiles',
  'POST files/retry': 'api.retryFiles',
  'GET files/:id': 'api.getFile',
  'POST files/:id/retry': 'api.retryFile',
  'POST files/:id/cancel': 'api.cancelFile',
  'POST files/:id/refetch': 'api.refetchFile',
  'POST files/:id/notify': 'api.notifyFile'
}

const changed = (action: string) => async (ctx: RestContext) => {
  onlyQuery(ctx, [])
  noBody(ctx)
  ctx.meta.$statusCode = 202
  return fileView(await ctx.call<FileRecord, object>(action, { id: ctx.params.params.id }))
}

export const fileActions: NonNullable<ServiceSchema['actions']> = {
  listFiles: {
    role: 'viewer',
    async handler(ctx: RestContext) {
      onlyQuery(ctx, ['serverId', 'status', 'path', 'since', 'until', 'limit', 'cursor'])
      const filter = {
        serverId: await serverIdOf(ctx),
        statuses: listOf(ctx, 'status', FILE_STATUSES),
        path: text(ctx, 'path'),
        since: time(ctx, 'since'),
        until: time(ctx, 'until'),
        cursor: text(ctx, 'cursor'),
        limit: integer(ctx, 'limit', { min: 1, max: 1000 }) ?? 100
      }
      const given = Object.fromEntries(Object.entries(filter).filter(([, value]) => value !== undefined))
      const page = await ctx.call<{ items: FileRecord[]; nextCursor: string | null }, object>('files.list', given)
      return { items: page.items.map(fileView), nextCursor: page.nextCursor }
    }
  },

  getFile: {
    role: 'viewer',
    async handler(ctx: RestContext) {
      onlyQuery(ctx, [])
      return fileView(await ctx.call<FileRecord, object>('files.get', { id: ctx.params.params.id }))
    }
  },

  retryFile: { role: 'operator', handler: changed('files.retry') },
  cancelFile: { role: 'operator', handler: changed('files.cancel') },
  refetchFile: { role: 'operator', handler: changed('files.refetch') },
  notifyFile: { role: 'operator', handler: changed('files.notify') },

  /** Every failed file, or those of `serverId`. */
  retryFiles: {
    role: 'operator',
    timeout: 60_000,
    async handler(ctx: RestContext) {
      onlyQuery(ctx, [])
      const body = (ctx.params.body ?? {}) as Record<string, unknown>
      const unknown = Object.keys(body).find((name) => !['serverId', 'status'].includes(name))
      if (unknown) refuse(unknown, 'is not a field of this filter (it has serverId, status)')
      if (body.status !== undefined && body.status !== 'failed') refuse('status', 'must be failed')
      if (body.serverId !== undefined && typeof body.serverId !== 'string') refuse('serverId', 'must be a string')
      const serverId = body.serverId ? await resolvedId(ctx, body.serverId as string) : undefined
      ctx.meta.$statusCode = 202
      return ctx.call('files.retryFailed', serverId ? { serverId } : {}, { timeout: 60_000 })
    }
  }
}
