/** REST actions of numbers: what there is now, and what was done when. */
import type { ServiceSchema } from 'moleculer'
import { RESOLUTIONS } from '../domain/timeline.ts'
import { choice, onlyQuery, type RestContext, refuse, serverIdOf, time } from './request.ts'
import { type TimelineAnswer, timelineView } from './views.ts'

export const statsAliases = {
  'GET stats': 'api.stats',
  'GET stats/timeline': 'api.timeline'
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
  },

  timeline: {
    role: 'viewer',
    async handler(ctx: RestContext) {
      onlyQuery(ctx, ['resolution', 'since', 'until', 'serverId'])
      const since = time(ctx, 'since')
      const until = time(ctx, 'until')
      if (since !== undefined && until !== undefined && since >= until) refuse('until', 'must be later than since')
      const asked = {
        resolution: choice(ctx, 'resolution', RESOLUTIONS),
        since,
        until,
        serverId: await serverIdOf(ctx)
      }
      const given = Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== undefined))
      return timelineView(await ctx.call<TimelineAnswer, object>('files.timeline', given))
    }
  }
}
