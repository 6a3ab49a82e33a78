/** REST actions of numbers: what there is now, and what was done when. */
import type { ServiceSchema } from 'moleculer'
import { onlyQuery, type RestContext, serverIdOf } from './request.ts'

export const statsAliases = {
  'GET stats': 'api.stats'
}

export const statsActions: NonNullable<ServiceSchema['actions']> = {
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
  }
}
