/**
 * Places where a crash hurts most. Off, and then no more than a comparison, unless FAILPOINTS is set, which only tests do:
 *
 *   FAILPOINTS="between-parts=crash@3, after-confirm=error, after-claim=pause:45000@2"
 *
 * `crash` is SIGKILL: nothing is cleaned up, as when the machine fails. `error` throws there, `pause:<ms>` waits there.
 * `@n` acts on the n-th pass of this process (by default the first), and on no other.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { IngestError } from '../domain/errors.ts'

export const failpointNames = [
  /** A file was claimed, nothing was read. */
  'after-claim',
  /** A part is in the store, others are missing. */
  'between-parts',
  /** The object is whole in the store, its record does not say so. */
  'after-complete',
  /** The broker confirmed a message, the record does not say so. */
  'after-confirm',
  /** The source was renamed aside, to be deleted or moved. */
  'after-set-aside',
  /** The source was moved or deleted, the record does not say so. */
  'after-post-action',
  /** A server is removed, everything of it is still there. */
  'after-tombstone',
  /** Some records and objects of a purged server are gone, others are there. */
  'between-purge-pages'
] as const
export type FailpointName = (typeof failpointNames)[number]

export interface Failpoint {
  name: FailpointName
  action: 'crash' | 'error' | 'pause'
  pauseMs: number
  /** From 1. */
  pass: number
}

let armed: Failpoint[] | null = null
const passes = new Map<FailpointName, number>()

/** null when the text is not of the form above. */
export function parseFailpoints(text: string): Failpoint[] | null {
  const form = /^([a-z-]+)=(?:(crash|error)|pause:(\d{1,7}))(?:@([1-9]\d{0,5}))?$/
  const points: Failpoint[] = []
  for (const entry of text.split(/[\s,]+/).filter(Boolean)) {
    const match = form.exec(entry)
    if (!match || !(failpointNames as readonly string[]).includes(match[1]!)) return null
    const [, name, action, pauseMs = '0', pass = '1'] = match
    points.push({
      name: name as FailpointName,
      action: (action as 'crash' | 'error' | undefined) ?? 'pause',
      pauseMs: Number(pauseMs),
      pass: Number(pass)
    })
  }
  return points
}

/** Turns these on, and all others off; counts from the beginning. */
export function armFailpoints(points: readonly Failpoint[]): void {
  armed = points.length > 0 ? [...points] : null
  passes.clear()
}

/** Passes a place. Rejects with INTERNAL where an `error` is armed. */
export async function failpoint(name: FailpointName): Promise<void> {
  if (armed === null) return
  const pass = (passes.get(name) ?? 0) + 1
  passes.set(name, pass)
  const point = armed.find((one) => one.name === name && one.pass === pass)
  if (!point) return
  if (point.action === 'error') throw new IngestError('INTERNAL', `the failpoint ${name} was passed`)
  if (point.action === 'pause') return delay(point.pauseMs)
  process.kill(process.pid, 'SIGKILL')
  // Not one step further, however late the signal comes.
  await new Promise(() => {})
}
