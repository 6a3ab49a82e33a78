/** REST actions of files, stats and health. */
import type { ServiceSchema } from 'moleculer'
import type { IngestError } from '../domain/errors.ts'
import { FILE_STATUSES, type FileRecord } from '../domain/file.ts'
import { integer, listOf, onlyQuery, type RestContext, refuse, text, time } from './request.ts'
import { fileView } from './views.ts'

export const fileAliases = {
  'GET files': 'api.listFiles',
  'POST files/retry': 'api.retryFiles',
  'GET files/:id': 'api.getFile',
  'POST files/:id/retry': 'api.retryFile',
  'POST files/:id/cancel': 'api.cancelFile',
  'POST files/:id/notify': 'api.notifyFile',
  'GET stats': 'api.stats',
  'GET nodes': 'api.nodes'
}

const changed = (action: string) => async (ctx: RestContext) => {
  onlyQuery(ctx, [])
  ctx.meta.$statusCode = 202
  return fileView(await ctx.call<FileRecord, object>(action, { id: ctx.params.params.id }))
}

/** Servers are asked for by id or by name. */
async function serverIdOf(ctx: RestContext): Promise<string | undefined> {
  const ref = text(ctx, 'serverId')
  if (!ref) return undefined
  // A removed server's files are still found by its id.
  return ctx.call<{ _id: string }, object>('servers.resolve', { ref }).then(
    (server) => server._id,
    (error: IngestError) => {
      if (error.type === 'NOT_FOUND') return ref
      throw error
    }
  )
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
      const serverId = body.serverId
        ? (await ctx.call<{ _id: string }, object>('servers.resolve', { ref: body.serverId as string }))._id
        : undefined
      ctx.meta.$statusCode = 202
      return ctx.call('files.retryFailed', serverId ? { serverId } : {}, { timeout: 60_000 })
    }
  },

  stats: {
    role: 'viewer',
    async handler(ctx: RestContext) {
      onlyQuery(ctx, ['serverId'])
      const serverId = await serverIdOf(ctx)
      const [files, servers] = await Promise.all([
        ctx.call<object, object>('files.stats', serverId ? { serverId } : {}),
        ctx.call('servers.stats')
      ])
      return { ...files, servers }
    }
  },

  nodes: {
    role: 'viewer',
    async handler(ctx: RestContext) {
      onlyQuery(ctx, [])
      const nodes: any[] = await ctx.call('$node.list', { withServices: true, onlyAvailable: true })
      const items = nodes.map(({ id, hostname, services, cpu, client }) => ({
        id,
        hostname,
        services: (services ?? []).map((one: any) => one.fullName).filter((name: string) => !name.startsWith('$')),
        cpuPercent: cpu,
        moleculer: client?.version,
        node: client?.langVersion
      }))
      return { items, nextCursor: null }
    }
  },

  live: {
    role: 'anyone',
    handler() {
      return { status: 'ok' }
    }
  },

  /** 200 once every service that the API needs answers and every backend does, else 503 with what is missing. */
  ready: {
    role: 'anyone',
    async handler(ctx: RestContext) {
      const pings = { servers: 'servers.ping', files: 'files.ping', storage: 'storage.ping', notifier: 'notifier.ping' }
      const checks: Record<string, string> = {}
      await Promise.all(
        Object.entries(pings).map(async ([name, action]) => {
          checks[name] = await ctx.call(action, undefined, { timeout: 4_000 }).then(() => 'ok', reason)
        })
      )
      const here = new Set(ctx.broker.registry.services.list({ onlyAvailable: true }).map((one: any) => one.name))
      for (const name of ['scanner', 'transfer']) checks[name] = here.has(name) ? 'ok' : 'no instance of it is running'
      const missing = Object.keys(checks).filter((name) => checks[name] !== 'ok')
      ctx.meta.$statusCode = missing.length === 0 ? 200 : 503
      return { status: missing.length === 0 ? 'ready' : 'not ready', missing, checks }
    }
  }
}

function reason(error: Error): string {
  return error.name === 'ServiceNotFoundError' ? 'no instance of it is running' : error.message
}
