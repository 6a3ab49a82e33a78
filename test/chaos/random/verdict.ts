/** Whether a random run has come to its end, and whether it kept its promises. */
import { checkEverything } from '../../support/checker.ts'
import type { Consumer } from '../../support/consumer.ts'
import type { Backends } from '../../support/longshore.ts'
import type { Json } from '../../support/rest.ts'
import type { Fleet } from './fleet.ts'
import type { Trace } from './partner.ts'

export interface Evidence {
  backends: Backends
  fleet: Fleet
  consumer: Consumer
  traces: ReadonlyMap<string, Trace>
  /** Below this folder a stored file stays as it was stored first; elsewhere a change is a version. */
  keptRoot: string
}

/** Processes of one machine share its clock; an entry may be written a moment after it was made. */
const SKEW_MS = 1000

const shown = (path: string) => JSON.stringify(path)

/** What has not come to its end yet, each a sentence; empty when the run has settled. */
export function unsettled(records: Json[], { traces, consumer, keptRoot }: Evidence): string[] {
  const open: string[] = []
  const announced = new Set(consumer.messages.map(({ event }) => event.data.fileId))
  const latest = new Map<string, Json>()
  for (const record of records) {
    const { id, path, status, error, version } = record
    if ((latest.get(path)?.version ?? 0) < version) latest.set(path, record)
    if (status !== 'notified' && status !== 'vanished')
      open.push(`${shown(path)} is ${status}: ${error?.message ?? ''}`)
    else if (status === 'notified' && !announced.has(id)) open.push(`${shown(path)} was not received`)
  }
  for (const { path, isThere, contents } of traces.values()) {
    if (!isThere) continue
    const record = latest.get(path)
    const now = contents.at(-1)!
    if (!record) open.push(`${shown(path)} has no record`)
    else if (record.status === 'vanished') open.push(`${shown(path)} is vanished, and is on the server`)
    else if (path.startsWith(`${keptRoot}/`)) continue
    else if (record.size !== now.size || Date.parse(record.mtime) !== now.mtime)
      open.push(`${shown(path)} is of ${record.size} bytes in version ${record.version}, and of ${now.size} now`)
  }
  return open
}

export async function judgeRun(evidence: Evidence) {
  const { backends, fleet, consumer, traces, keptRoot } = evidence
  const servers: Json = await fleet.api(0).get('/servers')
  const kept = servers.items.find(({ roots }: Json) => roots.includes(keptRoot))
  const report = await checkEverything({
    backends,
    consumer,
    longshore: {
      api: fleet.api(0),
      keys: fleet.keys,
      output: fleet.output,
      folders: fleet.folders,
      misconduct: fleet.ownEnds
    },
    rules: { end: 'settled', versioned: (serverId) => serverId !== kept.id, skewMs: SKEW_MS },
    past: new Map([...traces].map(([path, { contents }]) => [path, contents]))
  })
  const records = await fleet.api(0).files()
  const stored = records.filter(({ object }) => object)
  return {
    problems: report.problems,
    objects: stored.length,
    bytes: stored.reduce((sum, { object }) => sum + object.size, 0),
    duplicates: repeatsOf(consumer)
  }
}

/** Messages that were sent again; what the broker itself delivered again is not among them. */
function repeatsOf({ messages }: Consumer): number {
  const sent = messages.filter(({ isRedelivered }) => !isRedelivered).map(({ messageId }) => messageId)
  return sent.length - new Set(sent).size
}
