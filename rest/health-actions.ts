/** REST actions of the running system: its nodes, and whether it can do its work. */
import type { ServiceSchema } from 'moleculer'
import { onlyQuery, type RestContext } from './request.ts'

/** Of what Moleculer tells of a node. */
interface Node {
  id: string
  hostname: string
  services?: { fullName: string }[]
  cpu: number | null
  client?: { version: string; langVersion: string }
}

const NOBODY = 'no instance of it is running'

export const nodeAliases = { 'GET nodes': 'api.nodes' }
export const healthAliases = { 'GET live': 'api.live', 'GET ready': 'api.ready' }

export const healthActions: NonNullable<ServiceSchema['actions']> = {
  nodes: {
    role: 'viewer',
    async handler(ctx: RestContext) {
      onlyQuery(ctx, [])
      const nodes: Node[] = await ctx.call('$node.list', { withServices: true, onlyAvailable: true })
      const items = nodes.map(({ id, hostname, services, cpu, client }) => ({
        id,
        hostname,
        services: (services ?? []).map(({ fullName }) => fullName).filter((name) => !name.startsWith('$')),
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
      const { actions } = ctx.broker.registry
      await Promise.all(
        Object.entries(pings).map(async ([name, action]) => {
          // Asked first: Moleculer logs a warning for each call of an action that nobody has.
          checks[name] = actions.isAvailable(action)
            ? await ctx.call(action, undefined, { timeout: 4_000 }).then(() => 'ok', reason)
            : NOBODY
        })
      )
      const running: { name: string }[] = ctx.broker.registry.services.list({ onlyAvailable: true })
      const here = new Set(running.map(({ name }) => name))
      for (const name of ['scanner', 'transfer']) checks[name] = here.has(name) ? 'ok' : NOBODY
      const missing = Object.keys(checks).filter((name) => checks[name] !== 'ok')
      ctx.meta.$statusCode = missing.length === 0 ? 200 : 503
      return { status: missing.length === 0 ? 'ready' : 'not ready', missing, checks }
    }
  }
}

function reason(error: Error): string {
  return error.name === 'ServiceNotFoundError' ? NOBODY : error.message
}
