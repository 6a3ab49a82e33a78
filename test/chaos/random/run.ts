/**
 * Random faults on real servers, as many runs as asked for, one after another:
 *
 *   npm run chaos -- --seed 7 --minutes 3
 *   npm run chaos -- --seed 1 --seeds 20 --minutes 3 --json chaos.json
 *
 * The last line is the summary; the exit code is 1 when any run broke a promise. The faults and files of a run follow
 * from its seed; when they meet is up to the machine, so a seed that failed is worth running several times.
 */
import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { type RoundReport, runRound, SETTLE_MS } from './round.ts'

const MiB = 1024 * 1024

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    seeds: { type: 'string', default: '1' },
    minutes: { type: 'string', default: '3' },
    json: { type: 'string' },
    quiet: { type: 'boolean', default: false }
  }
})
const first = wholeNumber('seed', values.seed)
const count = wholeNumber('seeds', values.seeds)
const minutes = Number(values.minutes)
if (!(minutes > 0)) usage(`--minutes should be a number above 0, not ${values.minutes}`)

// The servers are ended when this process exits, and a signal alone would not let it.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130))

const reports: RoundReport[] = []
for (let seed = first; seed < first + count; seed++) {
  console.log(`seed ${seed}, ${minutes} min of faults`)
  const report = await runRound({
    seed,
    faultsMs: minutes * 60_000,
    settleMs: SETTLE_MS,
    largeBytes: 48 * MiB,
    mostBytes: Math.min(minutes, 10) * 250 * MiB,
    log: (line) => values.quiet || console.log(`  ${line}`)
  })
  reports.push(report)
  for (const problem of report.problems) console.log(`  PROBLEM ${problem}`)
  console.log(`seed ${seed}: ${lineOf(report)}`)
  if (values.json) await writeFile(values.json, `${JSON.stringify(reports, null, 2)}\n`)
}
const broken = reports.filter(({ problems }) => problems.length > 0)
if (broken.length > 0) console.log(`broken seeds: ${broken.map(({ seed }) => seed).join(' ')}`)
console.log(`${count} runs: ${lineOf(total())}`)
// All is said and written: what a client may still keep open after many faults is no reason to stay.
process.exit(broken.length > 0 ? 1 : 0)

function lineOf(report: RoundReport): string {
  const mib = (bytes: number) => `${Math.round(bytes / MiB)} MiB`
  return [
    `${report.faults} faults injected`,
    `${report.objects} files moved`,
    mib(report.bytesStored),
    `${report.problems.length} problems`,
    `${mib(report.bytesReadBeyond)} read beyond what is stored`,
    `${report.duplicates} duplicate messages`,
    `settled in ${report.settleSeconds} s at most (load ${report.loadAverage})`
  ].join(', ')
}

function total(): RoundReport {
  const sum = (of: (report: RoundReport) => number) => reports.reduce((all, report) => all + of(report), 0)
  return {
    ...reports[0]!,
    faults: sum(({ faults }) => faults),
    objects: sum(({ objects }) => objects),
    bytesStored: sum(({ bytesStored }) => bytesStored),
    bytesReadBeyond: sum(({ bytesReadBeyond }) => bytesReadBeyond),
    duplicates: sum(({ duplicates }) => duplicates),
    loadAverage: Math.max(...reports.map(({ loadAverage }) => loadAverage)),
    settleSeconds: Math.max(...reports.map(({ settleSeconds }) => settleSeconds)),
    problems: reports.flatMap(({ problems }) => problems)
  }
}

function wholeNumber(name: string, value: string): number {
  if (!/^\d{1,9}$/.test(value)) usage(`--${name} should be a whole number, not ${value}`)
  return Number(value)
}

function usage(message: string): never {
  console.error(`chaos: ${message}`)
  process.exit(2)
}
