/** A process that runs seeds for `pool.ts`, with a mutation of the code under test where one was asked for. */
import type { Wish } from './scenario.ts'
import { install } from './timeline.ts'

export interface Order {
  first: number
  count: number
  traced: boolean
  wish?: Wish
}

const mutation = process.argv[2]
if (mutation) (await import('./mutations.ts')).apply(mutation)
install()
// Loaded after the mutation and the virtual clock are in place.
const { simulate } = await import('./run.ts')

process.on('message', async ({ first, count, traced, wish }: Order) => {
  for (let seed = first; seed < first + count; seed++) {
    const { trace, ...result } = await simulate(seed, { traced, wish })
    process.send!({ ...result, trace: result.problems.length > 0 || traced ? trace : [] })
  }
  process.send!('done')
})
process.on('disconnect', () => process.exit())
process.send!('ready')
