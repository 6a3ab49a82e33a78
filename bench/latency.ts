/**
 * From the request for a scan to the message: one small file at a time, on OpenSSH, MinIO and RabbitMQ. With a process for
 * each service, NATS and MongoDB (or its stand-in, see test/support/mongo.ts), and all in one process on NeDB; from a near
 * server that sends one file soon after another, and from a distant one that sends few, where a connection is made for each.
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
  /** Of the 95th percentile; null: none was set. */
  goalMs: number | null
}

interface Sender {
  files: number
  /** Between one file and the next. */
  pauseMs: number
  /** Added to the way to the server. */
  roundTripMs: number
  goalMs: number | null
}

/** The pause is so long that no file meets what the one before left behind, such as its record of `notified`. */
const busy: Sender = { files: 60, pauseMs: 200, roundTripMs: 0, goalMs: 250 }
/** The pause is longer than a worker keeps its connection. */
const distant: Sender = { files: 10, pauseMs: 6_000, roundTripMs: 50, goalMs: null }
/** The first ones find no connection to anything yet. */
const WARMUP = 5

export async function measureLatency(): Promise<Latency[]> {
  const backends = await startBackends({ proxied: true })
  try {
    return [
      ...(await measure('seven processes, NATS, MongoDB', backends, true)),
      ...(await measure('one process, NeDB', backends, false))
    ]
  } finally {
    await backends.stop()
  }
}

async function measure(how: string, backends: Backends, isSpread: boolean): Promise<Latency[]> {
  const { TRANSPORTER, MONGO_URL, ...stores } = backends.env
  const consumer = await startConsumer(backends.queue)
  const longshore = await startLongshore(isSpread ? { backends } : { env: stores as Record<string, string> })
  try {
    const policy = { settle: { checks: 1, seconds: 0 }, interval: 3600, roots: [backends.root] }
    const name = isSpread ? 'spread' : 'one'
    const { body } = await longshore.api.request('POST', '/servers', backends.server({ ...policy, name }))
    await longshore.api.request('POST', `/servers/${body.id}/scan?wait=true`)
    const found: Latency[] = []
    for (const { files, pauseMs, roundTripMs, goalMs } of [busy, distant]) {
      backends.proxy!.delay(roundTripMs)
      const times: number[] = []
      for (let number = found.length === 0 ? -WARMUP : 0; number < files; number++) {
        const file = `${name}-${roundTripMs}-${number}.csv`
        const ms = await oneFile(backends, longshore, consumer, { server: body.id, file })
        if (number >= 0) times.push(ms)
        await new Promise((resolve) => setTimeout(resolve, pauseMs))
      }
      times.sort((a, b) => a - b)
      const at = (share: number) => Math.round(times[Math.ceil(times.length * share) - 1]!)
      const where = roundTripMs === 0 ? '' : `; a server ${roundTripMs} ms away, a file every ${pauseMs / 1000} s`
      found.push({ how: how + where, files, p50Ms: at(0.5), p95Ms: at(0.95), maxMs: at(1), goalMs })
    }
    return found
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

export function isQuick({ p95Ms, goalMs }: Latency): boolean {
  return goalMs === null || p95Ms <= goalMs
}

export function latencyTable(rows: Latency[]): string {
  const lines = [
    '| from the request for a scan to the message | files | p50 | p95 | longest | goal | met |',
    '| --- | --- | --- | --- | --- | --- | --- |'
  ]
  for (const row of rows) {
    const { how, files, p50Ms, p95Ms, maxMs, goalMs } = row
    const goal = goalMs === null ? ' | ' : `p95 <= ${goalMs} ms | ${isQuick(row) ? 'yes' : 'NO'}`
    lines.push(`| ${how} | ${files} | ${p50Ms} ms | ${p95Ms} ms | ${maxMs} ms | ${goal} |`)
  }
  return lines.join('\n')
}
