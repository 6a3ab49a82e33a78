/** Commands of the REPL that look at a server and change nothing: why a file is taken or not. */

import type { RecordedError } from '../domain/errors.ts'
import type { Explained } from '../domain/explain.ts'
import type { ServerRecord } from '../domain/server.ts'
import type { Browsed } from '../workers/browse.ts'
import type { DryRun } from '../workers/dry-run.ts'
import { bytes, visible } from './format.ts'
import { type Command, resolveServer, shown } from './repl.ts'

type Answer<T> = T & { error: RecordedError | null }

const PAGE = 50
const calm = { timeout: 0 }

const reason = (one: Explained) => {
  const next = one.nextAt === null ? '' : `, next at ${new Date(one.nextAt).toISOString()}`
  return visible(one.why) + next
}

const standing = ({ state, lastError }: ServerRecord) =>
  state === 'active' ? '' : `the server is ${state}${lastError ? `: ${visible(lastError.message)}` : ''}`

export const inspectionCommands: Command[] = [
  {
    command: 'explain <server> <path>',
    description: 'Says what happens to a path on a server, and why',
    action: shown(async (broker, { server: ref, path }) => {
      const server = await resolveServer(broker, ref)
      const request = { id: server._id, path: String(path) }
      const answer: Answer<Explained> = await broker.call('scanner.explain', request, calm)
      console.log(`  ${visible(answer.path)} on ${server.name}: ${answer.verdict}`)
      for (const line of [answer.error ? visible(answer.error.message) : '', reason(answer), standing(server)])
        if (line) console.log(`  ${line}`)
      if (answer.file) console.log(`  file ${answer.file.id}, version ${answer.file.version}: ${answer.file.status}`)
    })
  },
  {
    command: 'browse <server> [path]',
    description: 'Lists a folder of a server, each entry with what happens to it',
    options: [{ option: '-a, --after <name>', description: 'begins after this name' }],
    action: shown(async (broker, { server: ref, path, options }, { table }) => {
      const server = await resolveServer(broker, ref)
      const after = options.after === undefined ? {} : { after: String(options.after) }
      const request = { id: server._id, path: String(path ?? '/'), limit: PAGE, ...after }
      const page: Answer<Browsed> = await broker.call('scanner.browse', request, calm)
      if (page.error) return console.log(`  ${visible(page.error.message)}`)
      const rows = page.items.map((one) => [
        visible(one.name) + (one.kind === 'folder' ? '/' : ''),
        one.kind === 'file' ? bytes(one.size ?? 0) : one.kind,
        one.verdict,
        reason(one)
      ])
      if (rows.length > 0) console.log(table([['name', 'size', 'verdict', 'why'], ...rows]))
      const more = page.lastName === null ? '' : `; go on with --after ${JSON.stringify(page.lastName)}`
      console.log(`  ${page.items.length} of ${page.total} entries of ${visible(page.path)}${more}`)
    })
  }
]

/** What a scan would do. */
export async function showDryRun(
  broker: Parameters<typeof resolveServer>[0],
  server: ServerRecord,
  table: (rows: string[][]) => string
) {
  const run: Answer<DryRun> = await broker.call('scanner.dryRun', { id: server._id, limit: PAGE }, calm)
  const failed = run.error ?? run.problem
  if (failed) console.log(`  ${visible(failed.message)}`)
  const rows = run.items.map((one) => [visible(one.path), one.verdict, reason(one)])
  if (rows.length > 0) console.log(table([['path', 'verdict', 'why'], ...rows]))
  if (run.leftOut > 0) console.log(`  and ${run.leftOut} more`)
  console.log(
    `  ${run.listed} listed: ${run.new} would be new, ${run.settling} settling, ${run.pending} pending, ${run.skipped} skipped; nothing was changed`
  )
}
