/** What must hold at every moment, looked at when something happens: the checker looks at the end only. */
import type { FileRecord } from '../../domain/file-record.ts'
import { markerName } from '../../domain/marker.ts'
import type { ServerRecord } from '../../domain/server.ts'
import { follows } from '../support/transitions.ts'
import { wrongClearing } from './clearing.ts'
import type { Backends } from './node.ts'
import { cronGapMs, type Scenario } from './scenario.ts'
import type { Partner } from './snapshot.ts'

export function watch(
  { world, database, store, queue, sftp }: Backends,
  partners: Partner[],
  scenario: Scenario
): void {
  const files = database.collection<FileRecord>('files')
  const policyOf = (id: string) => scenario.servers.find(({ name }) => `id-${name}` === id)!.policy

  const announced = new Set<string>()
  for (const partner of partners) {
    partner.source.onClear = (...clearing) => {
      const problem = wrongClearing(
        partner,
        (id) => files.documents.get(id),
        (id) => announced.has(id),
        clearing
      )
      if (problem) world.violation(problem)
    }
  }

  files.onWrite = (before, after) => {
    checkStep(before, after)
    if (before) checkRefetch(before, after)
    const key = after.reservedKey
    if (key !== undefined && before?.reservedKey !== key) {
      const isShared = [...files.documents.values()].some((other) => other !== after && other.reservedKey === key)
      if (isShared) world.violation(`${after.path} has the key of another file`)
    }
    if (after.status !== 'uploaded' || before?.status === 'uploaded') return
    const { path, object, serverId, size, mtime } = after
    const stored = store.objects.get(object!.key)
    if (stored?.etag !== object!.etag) world.violation(`${path} is uploaded, and its object is another one`)
    const { seconds } = policyOf(serverId).settle
    const held = partners.find(({ source }) => source.id === serverId)!.source.history.get(path) ?? []
    // Seconds are all that a listing tells, and clocks differ.
    const needed = seconds * 1000 - 1_000 - 2 * scenario.ownerSkewMs
    const isSettled = held.some(
      (one) => one.size === size && one.mtime === mtime && Math.min(one.to, world.now) - one.from >= needed
    )
    if (!isSettled) world.violation(`${path} was taken before it had settled`)
    if (!isMarked(serverId, path, mtime)) world.violation(`${path} was taken without its marker`)
  }

  function isMarked(serverId: string, path: string, mtime: number): boolean {
    const { marker } = policyOf(serverId)
    if (!marker) return true
    const slash = path.lastIndexOf('/') + 1
    const { history } = partners.find(({ source }) => source.id === serverId)!.source
    const marks = history.get(path.slice(0, slash) + markerName(marker, path.slice(slash))) ?? []
    return marks.some((mark) => mark.mtime >= mtime)
  }

  /** The same content under the same id, announced once more; or all as it was before. */
  function checkRefetch(before: FileRecord, after: FileRecord): void {
    if (!before.refetch || after.refetch) return
    const { announcement: was } = before.refetch
    const { announcement: is, object, path, status } = after
    if (is?.messageId !== was.messageId) world.violation(`${path} has another message id after a refetch`)
    if (object === before.object) {
      if (status !== before.refetch.status) world.violation(`${path} is ${status} after a refetch that failed`)
      if (is?.status !== was.status) world.violation(`${path} is announced otherwise after a refetch that failed`)
      return
    }
    if (is?.status !== 'due') world.violation(`${path} is not announced after a refetch`)
    if (object?.checksum.value !== before.object?.checksum.value) {
      world.violation(`${path} has another content after a refetch`)
    }
  }

  database.collection<ServerRecord>('servers').onWrite = (before, { scanEpoch, cron, nextTickAt, name, deletedAt }) => {
    if (!before || scanEpoch === before.scanEpoch || cron === null || deletedAt) return
    const gapMs = cronGapMs(cron)
    if (nextTickAt % gapMs > gapMs * 0.05) world.violation(`${name} is to be scanned at another time than ${cron}`)
    if (nextTickAt > world.timeline.date + 2 * gapMs + scenario.ownerSkewMs) world.violation(`${name} is scanned late`)
  }

  function checkStep(before: FileRecord | undefined, after: FileRecord): void {
    const from = before?.status ?? 'null'
    const to = after.status
    if (from !== to && !follows[from].includes(to)) world.violation(`${after.path} went from ${from} to ${to}`)
    if (before && after.epoch < before.epoch) world.violation(`${after.path} went back to epoch ${after.epoch}`)
    const isHandedOver = from === 'downloading' && to === 'downloading' && before!.worker !== after.worker
    if (isHandedOver) world.violation(`${after.path} has two workers in epoch ${after.epoch}`)
  }

  store.onReplace = (before, after) => {
    // A refetch gives an object its own content again.
    if (before.etag === after.etag) return
    for (const { object, path } of files.documents.values()) {
      if (object?.key === before.key && object.etag === before.etag)
        world.violation(`the object of ${path} was written over`)
    }
  }

  queue.onPublish = ({ body }) => {
    type Told = { fileId: string; key: string; etag: string; serverId: string }
    const { fileId, key, etag, serverId } = (body as { data: Told }).data
    announced.add(fileId)
    // What was on its way when all of it was removed.
    if (partners.some(({ source, removed }) => source.id === serverId && removed?.purge)) return
    const stored = store.objects.get(key)
    if (stored?.etag !== etag) world.violation(`a message for ${body.subject} came before its object`)
    if (!files.documents.get(fileId)?.object) world.violation(`a message for ${body.subject} came before its record`)
  }

  // A worker that was stopped or cut off holds its connections longer than its slots: only without such trouble.
  const { stops, partitions, outages } = scenario
  const { errors, slow, freezes } = world.plan
  if (stops + partitions + outages + errors.network + errors.database + slow + freezes > 0) return
  sftp.onConnect = (server) => {
    const { maxConnections } = policyOf(server.id)
    if (server.connections > maxConnections)
      world.violation(`${server.connections} connections to ${server.name}, and ${maxConnections} are allowed`)
  }
}
