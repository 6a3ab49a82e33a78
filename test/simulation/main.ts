/**
 * `npm run simulate -- --seed N [--seeds M]`: runs the seeds N … N + M - 1. Of the first that fails it tells what
 * happened; the same seed does the same again.
 *
 *   --trace             tells it of a run that does not fail, too
 *   --processes P       by default one a processor
 *   --wish KIND         only scenarios of one kind: duel, calm or clearing, see scenario.ts
 *   --mutation NAME     with one of the mutations of mutations.ts
 */
import { parseArgs } from 'node:util'
import { runSeeds } from './pool.ts'
import type { Wish } from './scenario.ts'

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Math.floor(Math.random() * 1e9)) },
    seeds: { type: 'string', default: '1' },
    processes: { type: 'string' },
    mutation: { type: 'string' },
    wish: { type: 'string' },
    trace: { type: 'boolean', default: false }
  }
})
const [first, count] = [Number(values.seed), Number(values.seeds)]
if (!Number.isSafeInteger(first) || !(count >= 1)) {
  console.error('usage: npm run simulate -- --seed N [--seeds M] [--trace] [--processes P] [--mutation NAME]')
  process.exit(2)
}
const processes = values.processes ? Number(values.processes) : undefined
const wish = values.wish as Wish | undefined
const begun = performance.now()
const result = await runSeeds({ first, count, processes, mutation: values.mutation, traced: values.trace, wish })
const seconds = (performance.now() - begun) / 1000
for (const { seed, problems } of result.failed.slice(0, 20)) console.log(`seed ${seed}: ${problems.join('; ')}`)
const story = result.failed[0]?.seed ?? (values.trace ? first : undefined)
if (story !== undefined) {
  const { simulate } = await import('./run.ts')
  if (values.mutation) console.log('(the trace is of the run without the mutation: add --trace to see the other)')
  const { trace, digest } =
    values.trace && result.failed[0] ? result.failed[0] : await simulate(story, { traced: true, wish })
  console.log(`${trace.join('\n')}\nseed ${story}, digest ${digest}`)
}
const { seeds, failed, files, messages, duplicates, crashes, faults, settledMs, virtualMs, steps } = result
console.log(
  `from seed ${first}: ${seeds} seeds, ${failed.length} failed; ${files} files, ${messages} messages (${duplicates} repeats), ` +
    `${crashes} crashes, ${faults} faults; settled within ${settledMs / 1000} s; ` +
    `${(virtualMs / 3_600_000).toFixed(1)} virtual hours, ${steps} steps in ${seconds.toFixed(1)} s`
)
process.exitCode = failed.length > 0 ? 1 : 0
