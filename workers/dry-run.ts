/** What a scan would do, path by path, with no more held than is shown. */

import type { RecordedError } from '../domain/errors.ts'
import { type Explained, VERDICTS, type Verdict } from '../domain/explain.ts'
import type { ScanSummary, ServerPolicy } from '../domain/server.ts'
import type { SftpLooks } from '../drivers/sftp/sftp.ts'
import { type PreviewPorts, previewScan } from './preview.ts'

export interface DryRun extends ScanSummary {
  problem: RecordedError | null
  /** How many paths there are of each verdict, those left out too. */
  verdicts: Record<Verdict, number>
  items: Explained[]
  leftOut: number
}

/** What crosses the network stays below its limit of 1 MiB; a control character of a name takes six bytes. */
const ITEMS_BYTES = 512 * 1024
/** Nothing would happen to these: they are shown as far as there is room. */
const QUIET: Verdict[] = ['recorded', 'folder']

export async function dryRun(
  sftp: SftpLooks,
  policy: ServerPolicy,
  limit: number,
  ports: Omit<PreviewPorts, 'tell'>
): Promise<DryRun> {
  const report = new Report(limit)
  const { summary, problem } = await previewScan(sftp, policy, { ...ports, tell: (one) => report.add(one) })
  return { ...summary, problem, ...report.shown() }
}

/** Keeps the first paths that something would happen to, and fills up with the others. */
export class Report {
  readonly #limit: number
  readonly #loud = { items: [] as { place: number; item: Explained }[], bytes: 0 }
  readonly #quiet = { items: [] as { place: number; item: Explained }[], bytes: 0 }
  readonly #verdicts = Object.fromEntries(VERDICTS.map((verdict) => [verdict, 0])) as Record<Verdict, number>
  #total = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  add(item: Explained): void {
    this.#verdicts[item.verdict]++
    const place = this.#total++
    const list = QUIET.includes(item.verdict) ? this.#quiet : this.#loud
    if (list.items.length >= this.#limit || list.bytes >= ITEMS_BYTES) return
    list.items.push({ place, item })
    list.bytes += Buffer.byteLength(JSON.stringify(item))
  }

  shown(): Pick<DryRun, 'verdicts' | 'items' | 'leftOut'> {
    let bytes = 0
    const kept = [...this.#loud.items, ...this.#quiet.items].filter(({ item }, index) => {
      bytes += Buffer.byteLength(JSON.stringify(item))
      return index < this.#limit && bytes <= ITEMS_BYTES
    })
    const items = kept.sort((a, b) => a.place - b.place).map(({ item }) => item)
    return { verdicts: this.#verdicts, items, leftOut: this.#total - items.length }
  }
}
