/**
 * From the request for a scan to the message: one small file at a time, on OpenSSH, MinIO and RabbitMQ. Once with a process
 * for each service, NATS and MongoDB (or its stand-in, see test/support/mongo.ts), once all in one process on NeDB.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Consumer, startConsumer } from '../test/support/consumer.ts'
import { type Backends, type Longshore, startBackends, startLongshore, waitFor } from '../test/support/longshore.ts'

export interface Latency {
  how: string
  files: number
  p50Ms: number
  p95Ms: number
  maxMs: number
}

const GOAL_MS = 250
const FILES = 60
/** The first ones find no connection to anything yet. */
const WARMUP = 5
/** So that no file meets what the one before left behind, such as its record of `notified`. */
const PAUSE_MS = 200

export async function measureLatency(): Promise<Latency[]> {
  const backends = await startBackends()
  try {
    return [
      await measure('seven processes, NATS, MongoDB', backends, true),
      await measure('one process, NeDB', backends, false)
    ]
  } finally {
    await backends.stop()
  }
}

async function measure(how: string, backends: Backends, isSpread: boolean): Promise<Latency> {
  const { TRANSPORTER, MONGO_URL, ...stores } = backends.env
  const consumer = await startConsumer(backends.queue)
  const longshore = await startLongshore(isSpread ? { backends } : { env: stores as Record<string, string> })
  try {
    const policy = { settle: { checks: 1, seconds: 0 }, interval: 3600, roots: [backends.root] }
    const name = isSpread ? 'spread' : 'one'
    const { body } = await longshore.api.request('POST', '/servers', backends.server({ ...policy, name }))
    await longshore.api.request('POST', `/servers/${body.id}/scan?wait=true`)
    const times: number[] = []
    for (let number = -WARMUP; number < FILES; number++) {
      const ms = await oneFile(backends, longshore, consumer, { server: body.id, file: `${name}-${number}.csv` })
      if (number >= 0) times.push(ms)
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    }
    times.sort((a, b) => a - b)
    const at = (share: number) => Math.round(times[Math.ceil(times.length * share) - 1]!)
    return { how, files: FILES, p50Ms: at(0.5), p95Ms: at(0.95), maxMs: at(1) }
  } finally {
    await longshore.stop()
    await consumer.close()
  }
}

async function oneFile(
  { root }: Backends,
  { api }: Longshore,
  consumer: Consumer,
  { server, file }: { server: string; file: string }
): Promise<number> {
  const path = join(root, file)
  await writeFile(path, `one small file, ${file}\n`.repeat(40))
  const startedAt = Date.now()
  const { status } = await api.request('POST', `/servers/${server}/scan`)
  if (status !== 202) throw new Error(`the scan was answered with ${status}`)
  const message = () => consumer.messages.find(({ event }) => event.subject === path)
  await waitFor(() => message() !== undefined, { timeoutMs: 20_000, what: `the message of ${file}` })
  return message()!.receivedAt - startedAt
}

export function isQuick({ p95Ms }: Latency): boolean {
  return p95Ms <= GOAL_MS
}

export function latencyTable(rows: Latency[]): string {
  const lines = [
    '| from the request for a scan to the message | files | p50 | p95 | longest | goal | met |',
    '| --- | --- | --- | --- | --- | --- | --- |'
  ]
  for (const row of rows) {
    const { how, files, p50Ms, p95Ms, maxMs } = row
    const met = isQuick(row) ? 'yes' : 'NO'
    lines.push(`| ${how} | ${files} | ${p50Ms} ms | ${p95Ms} ms | ${maxMs} ms | p95 <= ${GOAL_MS} ms | ${met} |`)
  }
  return lines.join('\n')
}
