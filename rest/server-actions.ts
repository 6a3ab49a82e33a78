/** REST actions of servers. Each gets `{body, query, params}`; secrets are sealed here, before they cross the network. */
import { randomUUID } from 'node:crypto'
import type { Context, ServiceSchema } from 'moleculer'
import type { Config } from '../config.ts'
import { IngestError } from '../domain/errors.ts'
import type { ScanSummary, ServerRecord } from '../domain/server.ts'
import { parseNewServer, parseServerUpdate, type ServerSecrets } from '../domain/server-input.ts'
import { noBody } from './body.ts'
import { dryRunOf } from './inspection-actions.ts'
import { flag, onlyQuery, type RestContext, refuse } from './request.ts'
import { sealedSecrets } from './server-secrets.ts'
import { scanView, serverView } from './views.ts'

export const serverAliases = {
  'GET servers': 'api.listServers',
  'POST servers': 'api.createServer',
  'POST servers/test': 'api.testUnsavedServer',
  'GET servers/:id': 'api.getServer',
  'PATCH servers/:id': 'api.updateServer',
  'DELETE servers/:id': 'api.removeServer',
  'POST servers/:id/test': 'api.testServer',
  'POST servers/:id/scan': 'api.scanServer',
  'POST servers/:id/pause': 'api.pauseServer',
  'POST servers/:id/resume': 'api.resumeServer',
  'POST servers/:id/host-key': 'api.approveHostKey'
}

export function serverActions(config: Config): NonNullable<ServiceSchema['actions']> {
  const sealAll = (id: string, given: ServerSecrets, saved?: ServerRecord['secrets']) =>
    sealedSecrets(config.encryptionKey, id, given, saved)

  /** By id or by name, wherever a path says `:id`. */
  const resolve = (ctx: RestContext): Promise<ServerRecord> =>
    ctx.call('servers.resolve', { ref: ctx.params.params.id })

  const answer = (ctx: RestContext, server: ServerRecord) => {
    ctx.meta.$responseHeaders = { ETag: `"${server.edition}"` }
    return serverView(server)
  }

  const changed = (action: string) => async (ctx: RestContext) => {
    onlyQuery(ctx, [])
    noBody(ctx)
    const { _id } = await resolve(ctx)
    return answer(ctx, await ctx.call(action, { id: _id }))
  }

  return {
    listServers: {
      role: 'viewer',
      async handler(ctx: RestContext) {
        onlyQuery(ctx, [])
        const servers = await ctx.call<ServerRecord[], undefined>('servers.list', undefined as never)
        return { items: servers.map(serverView), nextCursor: null }
      }
    },

    createServer: {
      role: 'admin',
      async handler(ctx: RestContext) {
        onlyQuery(ctx, [])
        const { input, secrets } = parseNewServer(ctx.params.body)
        const id = randomUUID()
        const server = await ctx.call<ServerRecord, object>('servers.create', {
          id,
          input,
          secrets: sealAll(id, secrets)
        })
        ctx.meta.$statusCode = 201
        ctx.meta.$location = `/api/v1/servers/${id}`
        ctx.meta.$responseHeaders = { ETag: `"${server.edition}"` }
        return serverView(server)
      }
    },

    getServer: {
      role: 'viewer',
      async handler(ctx: RestContext) {
        onlyQuery(ctx, [])
        return answer(ctx, await resolve(ctx))
      }
    },

    updateServer: {
      role: 'admin',
      async handler(ctx: RestContext) {
        onlyQuery(ctx, [])
        const { input, secrets } = parseServerUpdate(ctx.params.body)
        const { _id, secrets: saved } = await resolve(ctx)
        const change = { id: _id, input, secrets: sealAll(_id, secrets, saved), edition: expectedEdition(ctx) }
        return answer(ctx, await ctx.call('servers.update', change))
      }
    },

    removeServer: {
      role: 'admin',
      async handler(ctx: RestContext) {
        onlyQuery(ctx, ['force', 'purge'])
        noBody(ctx)
        const server = await resolve(ctx)
        const edition = expectedEdition(ctx)
        if (edition !== undefined && edition !== server.edition) {
          throw new IngestError(
            'STALE_REVISION',
            `the server was changed meanwhile; its ETag is now "${server.edition}"`
          )
        }
        const how = { id: server._id, force: flag(ctx, 'force'), purge: flag(ctx, 'purge') }
        await ctx.call('servers.remove', how, { timeout: 30_000 })
        ctx.meta.$statusCode = 204
      }
    },

    testServer: {
      role: 'operator',
      timeout: 0,
      async handler(ctx: RestContext) {
        onlyQuery(ctx, [])
        noBody(ctx)
        const server = await resolve(ctx)
        const { _id: id, host, port, username, hostKey, algorithms, secrets, roots } = server
        const target = { id, host, port, username, hostKey, algorithms, secrets }
        return ctx.call('scanner.test', { target, roots, saved: true }, { timeout: 60_000 })
      }
    },

    testUnsavedServer: {
      role: 'admin',
      timeout: 0,
      async handler(ctx: RestContext) {
        onlyQuery(ctx, [])
        const { input, secrets } = parseNewServer({ name: 'unsaved', ...(ctx.params.body as object) })
        const id = randomUUID()
        const { host, port, username, hostKey, algorithms, roots } = input
        const target = { id, host, port, username, hostKey, algorithms, secrets: sealAll(id, secrets) }
        return ctx.call('scanner.test', { target, roots, saved: false }, { timeout: 60_000 })
      }
    },

    scanServer: {
      role: 'operator',
      timeout: 0,
      async handler(ctx: RestContext) {
        noBody(ctx)
        if (flag(ctx, 'dryRun')) return dryRunOf(ctx, await resolve(ctx))
        onlyQuery(ctx, ['wait', 'dryRun'])
        const { _id: id } = await resolve(ctx)
        const wait = flag(ctx, 'wait')
        const answer: ScanSummary = await ctx.call('scanner.scan', { id, wait }, { timeout: wait ? 0 : 5_000 })
        ctx.meta.$statusCode = wait ? 200 : 202
        return wait ? scanView(answer) : answer
      }
    },

    pauseServer: { role: 'operator', handler: changed('servers.pause') },
    resumeServer: { role: 'operator', handler: changed('servers.resume') },

    approveHostKey: {
      role: 'admin',
      async handler(ctx: RestContext) {
        onlyQuery(ctx, [])
        const { hostKey, ...rest } = (ctx.params.body ?? {}) as Record<string, unknown>
        const other = Object.keys(rest)[0]
        if (other) refuse(other, 'is not a field of this call (it has hostKey)')
        const { input } = parseServerUpdate({ hostKey: hostKey ?? '' })
        const { _id } = await resolve(ctx)
        return answer(ctx, await ctx.call('servers.approveHostKey', { id: _id, hostKey: input.hostKey }))
      }
    }
  }
}

/** `If-Match` is honoured, not required. */
function expectedEdition(ctx: Context): number | undefined {
  const header = (ctx.meta as { ifMatch?: string }).ifMatch
  if (header === undefined || header === '*') return undefined
  const edition = Number(/^"(\d+)"$/.exec(header)?.[1])
  return Number.isNaN(edition) ? -1 : edition
}
