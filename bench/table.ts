/** The medians of a case's runs, how they stand to its goals, and the table of it all. */
import type { Case, Goal } from './cases.ts'
import type { Measurement } from './measurement.ts'

export interface Side {
  runs: Measurement[]
  median: Measurement
}

export interface Result {
  case: Case
  transfers: number
  longshore: Side
  rclone: Side
  naive: Side | null
}

export function sideOf(runs: Measurement[]): Side {
  const median = (pick: (run: Measurement) => number) => runs.map(pick).toSorted((a, b) => a - b)[runs.length >> 1]!
  return {
    runs,
    median: {
      seconds: median(({ seconds }) => seconds),
      cpuSeconds: median(({ cpuSeconds }) => cpuSeconds),
      peakRssMB: median(({ peakRssMB }) => peakRssMB),
      sftpCpuSeconds: median(({ sftpCpuSeconds = 0 }) => sftpCpuSeconds),
      storeCpuSeconds: median(({ storeCpuSeconds = 0 }) => storeCpuSeconds)
    }
  }
}

function rateOf(one: Case, { seconds }: Measurement): number {
  return (one.unit === 'files/s' ? one.files : (one.files * one.sizeBytes) / 1e6) / seconds
}

/** One run in a line. */
export function describe(one: Case, run: Measurement): string {
  const { cpuSeconds, sftpCpuSeconds = 0, storeCpuSeconds = 0, peakRssMB } = run
  const cpu = [cpuSeconds, sftpCpuSeconds, storeCpuSeconds].map((seconds) => seconds.toFixed(1))
  const rate = `${rateOf(one, run).toFixed(0)} ${one.unit}`
  const course = run.rssMB ? ` (${run.rssMB.before} before, by quarters ${run.rssMB.quarters.join(', ')})` : ''
  return `${rate}, CPU ${cpu[0]} s (SFTP server ${cpu[1]} s, store ${cpu[2]} s), peak ${peakRssMB.toFixed(0)} MB${course}`
}

function ratioOf(goal: Goal, result: Result): number {
  const [ours, theirs] = [result.longshore.median, result.rclone.median]
  if (goal.of === 'rate') return rateOf(result.case, ours) / rateOf(result.case, theirs)
  return goal.of === 'cpu' ? ours.cpuSeconds / theirs.cpuSeconds : ours.peakRssMB
}

export function isMet(goal: Goal, result: Result): boolean {
  const value = ratioOf(goal, result)
  return value >= (goal.atLeast ?? value) && value <= (goal.atMost ?? value)
}

/** In Markdown, to be pasted into a document. */
export function table(rows: Result[]): string {
  const lines = [
    '| case | Longshore | rclone | straightforward | CPU s | of the SFTP server | of the store | peak RSS MB | rate | CPU | goal | met |',
    '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |'
  ]
  for (const result of rows) {
    const { case: one, longshore: ours, rclone: theirs, naive: plain } = result
    const rate = (side: Side | null) => (side ? `${rateOf(one, side.median).toFixed(0)} ${one.unit}` : '-')
    const each = (pick: (run: Measurement) => string) =>
      [ours, theirs, plain].flatMap((side) => (side ? [pick(side.median)] : [])).join(' / ')
    const cells = [
      one.title,
      rate(ours),
      `${rate(theirs)} (--transfers ${result.transfers})`,
      rate(plain),
      each(({ cpuSeconds }) => cpuSeconds.toFixed(1)),
      each(({ sftpCpuSeconds = 0 }) => sftpCpuSeconds.toFixed(1)),
      each(({ storeCpuSeconds = 0 }) => storeCpuSeconds.toFixed(1)),
      each(({ peakRssMB }) => peakRssMB.toFixed(0)),
      `${ratioOf({ of: 'rate' }, result).toFixed(2)}x`,
      `${ratioOf({ of: 'cpu' }, result).toFixed(2)}x`,
      one.goals.map(goalText).join(', '),
      one.goals.map((goal) => (isMet(goal, result) ? 'yes' : 'NO')).join(', ')
    ]
    lines.push(`| ${cells.join(' | ')} |`)
  }
  return lines.join('\n')
}

function goalText({ of, atLeast, atMost }: Goal): string {
  const bound = atLeast === undefined ? `<= ${atMost}` : `>= ${atLeast}`
  return of === 'rssMB' ? `RSS ${bound} MB` : `${of} ${bound}x`
}
