/**
 * Mutations: one defence of the code is taken away, as it is loaded, and never in the code itself. Each must be found by
 * the simulation, or the simulation could not be believed about the rest.
 */
import { readFileSync } from 'node:fs'
import { registerHooks } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Wish } from './scenario.ts'

interface Mutation {
  /** What is no longer there. */
  what: string
  file: string
  from: string
  to: string
  /** A second place of the file, where one does not take the defence away. */
  also?: { from: string; to: string }
  /** The kind of scenario that it shows in soonest. */
  wish?: Wish
  /** It is found within so many; 300 where nothing is said. */
  seeds?: number
}

export const mutations: Record<string, Mutation> = {
  fence: {
    what: 'a worker of an older epoch may still write',
    file: 'domain/file.ts',
    from: "return file.status === 'downloading' && file.epoch === epoch",
    to: "return file.status === 'downloading'",
    wish: 'duel'
  },
  settle: {
    what: 'a file is taken at the first look',
    file: 'domain/settle.ts',
    from: 'return state.looks >= policy.checks && now - state.since >= policy.seconds * 1000',
    to: 'return true'
  },
  'look-again': {
    what: 'the source is not looked at again around the read',
    file: 'drivers/copy.ts',
    from: 'if (seen.sizeBytes !== this.#file.size || seen.mtimeSeconds * 1000 !== this.#file.mtime)',
    to: 'if (seen.sizeBytes < 0)'
  },
  confirm: {
    what: 'a message counts as sent without its confirm',
    file: 'test/simulation/queue.ts',
    from: 'publish: (message) => confirmed(',
    to: 'publish: async (message) => void confirmed(message).catch(() => undefined) ?? ('
  },
  'unique-key': {
    what: 'two files may reserve one key',
    file: 'drivers/db/file-records.ts',
    from: '{ fields: { reservedKey: 1 }, unique: true,',
    to: '{ fields: { reservedKey: 1 }, unique: false,'
  },
  'unique-id': {
    what: 'a registration writes over what is recorded',
    file: 'test/simulation/database.ts',
    from: 'if (this.documents.has(document._id) || this.isTaken(document)) return false',
    to: 'if (this.isTaken(document)) return false',
    seeds: 1000
  },
  'compare-and-set': {
    what: 'a write does not ask whether somebody was faster',
    file: 'test/simulation/database.ts',
    from: 'if (stored?.revision !== from.revision) return false',
    to: 'if (!stored) return false'
  },
  'conditional-write': {
    what: 'the store does not hold a condition against what is there',
    file: 'test/simulation/store.ts',
    from: 'if (isRefused) throw',
    to: 'if (false) throw',
    wish: 'duel'
  },
  rescue: {
    what: 'nobody takes over from a lost worker',
    file: 'domain/file.ts',
    from: "if (file.status !== 'downloading' || file.leaseUntil + SKEW_MS > now) return null",
    to: "if (file.status === 'downloading' || file.leaseUntil + SKEW_MS > now) return null"
  },
  'message-id': {
    what: 'each message has an id of its own',
    file: 'domain/announcement.ts',
    from: 'const messageId = messageIdOf(file._id)',
    to: "const messageId = messageIdOf(file._id + '/' + file.announcement!.epoch)"
  },
  outbox: {
    what: 'a stored file is announced only by the bell',
    file: 'domain/file.ts',
    from: 'announcement: { ...due, epoch: due.epoch + 1, dueAt: until + SKEW_MS, leaseUntil: until }',
    to: 'announcement: { ...due, epoch: due.epoch + 1, dueAt: Number.MAX_SAFE_INTEGER, leaseUntil: until }'
  },
  bells: {
    what: 'workers wait for events and do not look by themselves',
    file: 'services/transfer.service.ts',
    from: "tickerMixin({ name: 'work', everyMs: 2_000,",
    to: "tickerMixin({ name: 'work', everyMs: 2_000_000,"
  },
  'scan-lease': {
    what: 'the scan of a dead scanner is taken over late',
    file: 'domain/server.ts',
    from: 'export const SCAN_LEASE_MS = 30_000',
    to: 'export const SCAN_LEASE_MS = 300_000'
  },
  slots: {
    what: 'connections are not counted',
    file: 'domain/server.ts',
    from: 'if (held.length >= maxConnections) return false',
    to: 'if (held.length < 0) return false',
    wish: 'calm'
  },
  'last-look': {
    what: 'nobody looks for uploads under the key of a file that was just stored',
    file: 'drivers/copy.ts',
    from: '      await this.#upload.abandon()\n      return stored\n',
    to: '      return stored\n'
  },
  discard: {
    what: 'an upload that the store refuses to complete is gone on with',
    file: 'drivers/copy.ts',
    from: "if (error.type === 'CHECKSUM_MISMATCH') await",
    to: 'if (Date.now() < 0) await',
    seeds: 1500
  },
  'recorded-version': {
    what: 'what has the name of an announced file is cleared away, whatever it is',
    file: 'workers/after-upload.ts',
    from: "return found.kind === 'file' && found.sizeBytes === step.size && found.mtimeSeconds * 1000 === step.mtime",
    to: "return found.kind === 'file'"
  },
  'set-aside': {
    what: 'what a worker before has set aside is not looked for',
    file: 'workers/after-upload.ts',
    from: 'let found = await this.#look(aside)',
    to: 'let found: Attributes | null = null',
    seeds: 1000
  },
  'moved-before': {
    what: 'nobody looks whether a worker before has moved the file',
    file: 'workers/after-upload.ts',
    from: "if (there && isRecorded(there, step)) return { kind: 'moved', to }",
    to: '',
    wish: 'clearing'
  },
  marker: {
    what: 'a marker counts that is older than its file',
    file: 'domain/marker.ts',
    from: 'if (markerMtime < mtime)',
    to: 'if (markerMtime < 0)'
  },
  cron: {
    what: 'a cron expression is not looked at',
    file: 'domain/schedule.ts',
    from: 'if (schedule.cron === null) {',
    to: "if (schedule.cron !== '') {"
  },
  removal: {
    what: 'nobody goes on with the removal of a server',
    file: 'domain/server.ts',
    from: 'removal: { purge, passes: 0, dueAt: now }',
    to: 'removal: { purge, passes: 0, dueAt: Number.MAX_SAFE_INTEGER }',
    seeds: 1000
  },
  'removal-again': {
    what: 'the removal of a server is over after its first pass, with a worker that still writes',
    file: 'domain/server.ts',
    from: 'const REMOVAL_PASSES_MS = [0, 45_000, 10 * 60_000]',
    to: 'const REMOVAL_PASSES_MS = [0]',
    seeds: 1500
  },
  'announced-first': {
    what: 'a source is deleted or moved as soon as its object is stored, announced or not',
    file: 'domain/file.ts',
    from: "return enter(file, { ...free, ...stored, status: 'uploaded', error: null }, now, null)",
    to: `const step = file.afterUpload?.status === 'waiting' ? { afterUpload: makeDue(file.afterUpload, now) } : {}
      return enter(file, { ...free, ...stored, ...step, status: 'uploaded', error: null }, now, null)`,
    also: {
      from: "const afterUpload = file.status === 'notified' ? claimStep(file.afterUpload, now) : null",
      to: 'const afterUpload = claimStep(file.afterUpload, now)'
    }
  },
  'refetch-changed': {
    what: 'a refetch takes what the server holds by now under the id of what was announced',
    file: 'domain/file.ts',
    from: "if (isRefetching(file)) return backToStored({ ...file, ...free }, 'changed', now)",
    to: '',
    seeds: 1000
  },
  strays: {
    what: 'what is left of an upload is not aborted',
    file: 'drivers/file-upload.ts',
    from: '    if (!this.#mayBeThere) return\n',
    to: '    if (Date.now() > 0) return\n'
  }
}

const root = join(import.meta.dirname, '../..')

/** Before the code is loaded. Throws when the code no longer has the place. */
export function apply(name: string): void {
  const mutation = mutations[name]
  if (!mutation) throw new Error(`there is no mutation ${name}, but ${Object.keys(mutations).join(', ')}`)
  const { file, from, to, also } = mutation
  const path = join(root, file)
  let source = readFileSync(path, 'utf8')
  for (const place of [{ from, to }, ...(also ? [also] : [])]) {
    if (source.split(place.from).length !== 2) throw new Error(`${file} does not have once: ${place.from}`)
    source = source.replace(place.from, () => place.to)
  }
  const url = pathToFileURL(path).href
  registerHooks({
    load(given, context, next) {
      const loaded = next(given, context)
      return given === url ? { ...loaded, source } : loaded
    }
  })
}
