/** Commands of the Moleculer REPL: the same actions as REST, shown as tables. */
import type { FileRecord } from '../domain/file-record.ts'
import type { ScanSummary, ServerRecord } from '../domain/server.ts'
import { bytes, nextScan, since, visible } from './format.ts'
import { inspectionCommands, showDryRun } from './inspection-commands.ts'
import { type Command, type Commands, resolveServer, shown } from './repl.ts'

/** What the answer of `files.stats` is shown of. */
interface Stats {
  files: Record<string, { count: number; bytes: number }>
  backlog: { count: number; oldestSeconds: number }
  announcements: { due: number }
}

export const replCommands = [
  {
    command: 'servers',
    description: 'Lists the SFTP servers',
    action: shown(async (broker, _args, { table }) => {
      const servers: ServerRecord[] = await broker.call('servers.list')
      if (servers.length === 0) return console.log('  no servers yet: add one by POST /api/v1/servers')
      const rows = servers.map((one) => [
        one.name,
        one.state,
        `${one.username}@${one.host}:${one.port}`,
        one.cron ? `${one.cron} (${one.timezone})` : `every ${one.interval} s`,
        since(one.lastScanAt),
        nextScan(one, Date.now()),
        one.lastError ? visible(one.lastError.message) : 'ok'
      ])
      console.log(table([['name', 'state', 'address', 'schedule', 'last scan', 'next scan', 'result'], ...rows]))
    })
  },
  {
    command: 'scan <name>',
    description: 'Scans a server now and says what it found',
    options: [
      { option: '--dry-run', description: 'changes nothing, and says for each file what would happen and why' }
    ],
    action: shown(async (broker, { name, options }, { table }) => {
      const server = await resolveServer(broker, name)
      if (options['dry-run'] || options.dryRun) return showDryRun(broker, server, table)
      const scan: ScanSummary = await broker.call('scanner.scan', { id: server._id, wait: true }, { timeout: 0 })
      console.log(
        `  ${scan.listed} listed: ${scan.new} new, ${scan.settling} settling, ${scan.pending} pending, ${scan.skipped} skipped, ${scan.quarantined} quarantined, in ${scan.durationMs} ms`
      )
    })
  },
  {
    command: 'files [status]',
    description: 'Lists the newest files, of one state or of all',
    options: [{ option: '-s, --server <name>', description: 'of this server only' }],
    action: shown(async (broker, { status, options }, { table }) => {
      const serverId = options.server ? (await resolveServer(broker, String(options.server)))._id : undefined
      const filter = { limit: 30, ...(status ? { statuses: [status] } : {}), ...(serverId ? { serverId } : {}) }
      const { items }: { items: FileRecord[] } = await broker.call('files.list', filter)
      if (items.length === 0) return console.log('  no such files')
      const rows = items.map((one) => [
        one._id,
        one.status,
        one.serverName,
        visible(one.path),
        bytes(one.size),
        one.error ? visible(one.error.message) : visible(one.reason ?? '')
      ])
      console.log(table([['id', 'state', 'server', 'path', 'size', 'reason'], ...rows]))
    })
  },
  {
    command: 'file <id>',
    description: 'Shows one file with its history',
    action: shown(async (broker, { id }) => {
      const file: FileRecord = await broker.call('files.get', { id: String(id) })
      console.log(
        `  ${visible(file.path)} on ${file.serverName}, version ${file.version}, ${bytes(file.size)}: ${file.status}`
      )
      if (file.object)
        console.log(`  ${file.object.url}  ${file.object.checksum.algorithm} ${file.object.checksum.value}`)
      for (const { at, status, attempt, worker, reason, times } of file.history) {
        const note = [
          attempt ? `attempt ${attempt}` : '',
          worker ?? '',
          reason ? visible(reason) : '',
          times > 1 ? `${times} times` : ''
        ]
        console.log(`  ${new Date(at).toISOString()}  ${status.padEnd(11)}  ${note.filter(Boolean).join(', ')}`)
      }
    })
  },
  {
    command: 'retry [id]',
    description: 'Tries a failed file again, or all of them',
    options: [{ option: '--failed', description: 'every failed file' }],
    action: shown(async (broker, { id, options }) => {
      if (options.failed) {
        const { retried }: { retried: number } = await broker.call('files.retryFailed', {})
        return console.log(`  ${retried} files are tried again`)
      }
      if (!id) return console.log('  retry <id>, or retry --failed')
      const file: FileRecord = await broker.call('files.retry', { id: String(id) })
      console.log(`  ${visible(file.path)} is ${file.status}`)
    })
  },
  {
    command: 'backlog',
    description: 'Says what waits: files by state, announcements, the oldest',
    action: shown(async (broker, _args, { table }) => {
      const stats: Stats = await broker.call('files.stats')
      const rows = Object.entries(stats.files).map(([status, { count, bytes: sum }]) => [
        status,
        String(count),
        bytes(sum)
      ])
      console.log(table([['state', 'files', 'size'], ...rows]))
      const { count, oldestSeconds } = stats.backlog
      console.log(
        `  ${count} files wait, the oldest for ${oldestSeconds} s; ${stats.announcements.due} announcements are due`
      )
    })
  },
  ...inspectionCommands
] satisfies Command[] as unknown as Commands
