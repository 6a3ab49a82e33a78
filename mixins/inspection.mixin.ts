/**
 * Looking at a server without changing anything, neither here nor there: no record, no scan's result, no failure, no
 * pinned key. Each look holds one of the server's connections. What the partner refuses is an answer with its `error`.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Context, ServiceSchema } from 'moleculer'
import { IngestError, recordedError } from '../domain/errors.ts'
import type { Why } from '../domain/explain.ts'
import type { Sighting } from '../domain/readiness.ts'
import type { ServerPolicy, ServerRecord } from '../domain/server.ts'
import { normalPath } from '../domain/server-path.ts'
import { rulesOf } from '../domain/sighting.ts'
import type { Sftp } from '../drivers/sftp/sftp.ts'
import { browseFolder } from '../workers/browse.ts'
import { type Connector, connectToServer, type ServerTarget } from '../workers/connect.ts'
import { dryRun } from '../workers/dry-run.ts'
import { explainPath, type Preview } from '../workers/explain-path.ts'
import type { RegisterCounts } from '../workers/sighting-batch.ts'

/** What a look needs of the server; as `servers.takeSlot` answers it. */
interface Order {
  target: ServerTarget
  name: string
  policy: ServerPolicy
  scanEpoch: number
}

const SLOT_WAIT_MS = 15_000
const SLOT_RETRY_MS = 250
const SLOT_RENEW_MS = 10_000
/** A folder of a million files takes half a minute; a listing without end has to end. */
const LOOK_MS = 120_000
const DRY_RUN_MS = 60 * 60_000
const PREVIEW_FILES = 100

export function inspectionMixin(): Partial<ServiceSchema> {
  return {
    actions: {
      /** One folder, a page at a time: `{path, items, lastName, total, error}`. */
      browse: {
        timeout: 0,
        params: { id: 'string', path: 'string', after: 'string|optional', limit: 'number' },
        async handler(this: any, ctx: Context<{ id: string; path: string; after?: string; limit: number }>) {
          const { id, after = null, limit } = ctx.params
          const path = normalPath(ctx.params.path)
          const asked = { path, after, limit }
          await this.expectUsable(ctx, id)
          const nothing = { path, items: [], lastName: null, total: 0 }
          return this.inspect(id, LOOK_MS, nothing, (sftp: Sftp, order: Order, signal: AbortSignal) =>
            browseFolder(sftp, order.policy, asked, this.askFiles(order, signal))
          )
        }
      },

      /** What happens to a path, and why: an `Explained` with `error`. A stopped server is not asked. */
      explain: {
        timeout: 0,
        params: { id: 'string', path: 'string' },
        async handler(this: any, ctx: Context<{ id: string; path: string }>) {
          const { id } = ctx.params
          const path = normalPath(ctx.params.path)
          const server = await ctx.call<ServerRecord, object>('servers.get', { id })
          const recorded = () => ctx.call<any, object>('files.recorded', { serverId: id, path })
          const unknown = { path, size: null, mtime: null, verdict: 'unknown', why: '', nextAt: null, file: null }
          if (server.state === 'stopped') return { ...unknown, ...(await recorded()), error: server.lastError }
          const answer = await this.inspect(id, LOOK_MS, unknown, (sftp: Sftp, order: Order, signal: AbortSignal) =>
            explainPath(sftp, order.policy, path, this.askFiles(order, signal))
          )
          return answer.error ? { ...answer, ...(await recorded()) } : answer
        }
      },

      /** What a scan would do: its summary, `items` and what was left out of them, `error`. */
      dryRun: {
        timeout: 0,
        params: { id: 'string', limit: 'number' },
        async handler(this: any, ctx: Context<{ id: string; limit: number }>) {
          const { id, limit } = ctx.params
          await this.expectUsable(ctx, id)
          const counts = { listed: 0, new: 0, settling: 0, pending: 0, skipped: 0, quarantined: 0 }
          const nothing = {
            ...counts,
            durationMs: 0,
            complete: false,
            problem: null,
            items: [],
            leftOut: 0,
            verdicts: {}
          }
          return this.inspect(id, DRY_RUN_MS, nothing, (sftp: Sftp, order: Order, signal: AbortSignal) =>
            dryRun(sftp, order.policy, limit, this.askFiles(order, signal))
          )
        }
      }
    },

    methods: {
      /** CONFLICT for a stopped server: to log in once more, only to look, could lock the account out. */
      async expectUsable(ctx: Context, id: string): Promise<void> {
        const { name, state, lastError } = await ctx.call<ServerRecord, object>('servers.get', { id })
        if (state !== 'stopped') return
        const cause = lastError ? ` (${lastError.message})` : ''
        throw new IngestError('CONFLICT', `the server ${name} is stopped${cause}; mend and resume it, or test it`)
      },

      /** `work` on a connection of its own; where that fails, `nothing` and the error. */
      async inspect(
        id: string,
        forMs: number,
        nothing: object,
        work: (sftp: Sftp, order: Order, signal: AbortSignal) => Promise<object>
      ): Promise<object> {
        const { slotId, order } = await this.slotToLook(id)
        if (!slotId) {
          const message = 'all connections of the server are in use; try again, or give it more maxConnections'
          return { ...nothing, error: recordedError(new IngestError('SFTP_TOO_MANY_SESSIONS', message), Date.now()) }
        }
        const slots = [{ serverId: id, slotId }]
        const beat = setInterval(() => {
          this.broker.call('servers.renewSlots', { slots }).catch(() => undefined)
        }, SLOT_RENEW_MS)
        const late = new IngestError('SFTP_TIMEOUT', `not done within ${forMs / 1000} s`)
        const deadline = new AbortController()
        const timer = setTimeout(() => deadline.abort(late), forMs)
        const signal = AbortSignal.any([deadline.signal, this.stop.signal])
        try {
          const connector: Connector = { ...this.connector, pinHostKey: async (_id, fingerprint) => fingerprint }
          const sftp = await connectToServer(connector, order.target, signal)
          try {
            return { ...(await work(sftp, order, signal)), error: null }
          } finally {
            await sftp.close()
          }
        } catch (error) {
          if (!isPartners(error)) throw error
          return { ...nothing, error: recordedError(error, Date.now()) }
        } finally {
          clearInterval(beat)
          clearTimeout(timer)
          this.releaseSlot(id, slotId)
        }
      },

      /** A connection as for a test of the server; holders yield to it. */
      async slotToLook(id: string): Promise<{ slotId: string | null; order?: Order }> {
        const until = Date.now() + SLOT_WAIT_MS
        for (;;) {
          const request = { id, kind: 'test', holder: this.holder }
          const taken: any = await this.broker.call('servers.takeSlot', request)
          if (taken.slotId || Date.now() > until) return taken
          if (taken.reason === 'the server was removed') throw new IngestError('NOT_FOUND', taken.reason)
          await delay(SLOT_RETRY_MS, undefined, { signal: this.stop.signal })
        }
      },

      askFiles({ target, name, policy, scanEpoch }: Order, signal: AbortSignal) {
        const { broker } = this
        const serverId = target.id
        const rules = rulesOf({ id: serverId, name, policy, scanEpoch })
        return {
          signal,
          preview: (sightings: Sighting[]) =>
            inParts(sightings, (part) => broker.call('files.preview', { rules, sightings: part })),
          recorded: (path: string) => broker.call('files.recorded', { serverId, path }),
          unstored: (after: string) => broker.call('files.unstored', { serverId, scanEpoch: scanEpoch + 1, after })
        }
      }
    }
  }
}

/** A reason may be many times as long as its sighting: an answer to a whole batch would not fit one message. */
async function inParts(sightings: Sighting[], preview: (part: Sighting[]) => Promise<Preview>): Promise<Preview> {
  const counts: RegisterCounts = { new: 0, settling: 0, pending: 0, skipped: 0 }
  const whys: Why[] = []
  for (let i = 0; i < sightings.length; i += PREVIEW_FILES) {
    const answer = await preview(sightings.slice(i, i + PREVIEW_FILES))
    for (const name of Object.keys(counts) as (keyof RegisterCounts)[]) counts[name] += answer.counts[name]
    whys.push(...answer.whys)
  }
  return { counts, whys }
}

/** What the server did or is; an outage of ours is an error of the call. */
function isPartners(error: unknown): boolean {
  const { type = '' } = error as { type?: string }
  return type.startsWith('SFTP_') || ['ROOT_UNREADABLE', 'ADDRESS_DENIED', 'SECRET_UNREADABLE'].includes(type)
}
