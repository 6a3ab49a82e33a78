/** What must hold at every moment, looked at when something happens: the checker looks at the end only. */
import type { FileRecord } from '../../domain/file-record.ts'
import { follows } from '../support/transitions.ts'
import type { Backends } from './node.ts'
import type { Scenario } from './scenario.ts'
import type { Partner } from './snapshot.ts'

export function watch(
  { world, database, store, queue, sftp }: Backends,
  partners: Partner[],
  scenario: Scenario
): void {
  const files = database.collection<FileRecord>('files')
  const policyOf = (id: string) => scenario.servers.find(({ name }) => `id-${name}` === id)!.policy

  files.onWrite = (before, after) => {
    checkStep(before, after)
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
  }

  function checkStep(before: FileRecord | undefined, after: FileRecord): void {
    const from = before?.status ?? 'null'
    const to = after.status
    if (from !== to && !follows[from].includes(to)) world.violation(`${after.path} went from ${from} to ${to}`)
    if (before && after.epoch < before.epoch) world.violation(`${after.path} went back to epoch ${after.epoch}`)
    const isHandedOver = from === 'downloading' && to === 'downloading' && before!.worker !== after.worker
    if (isHandedOver) world.violation(`${after.path} has two workers in epoch ${after.epoch}`)
  }

  store.onReplace = (before) => {
    for (const { object, path } of files.documents.values()) {
      if (object?.key === before.key && object.etag === before.etag)
        world.violation(`the object of ${path} was written over`)
    }
  }

  queue.onPublish = ({ body }) => {
    const { fileId, key, etag } = (body as { data: { fileId: string; key: string; etag: string } }).data
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
