/** Processes that hold little for long: what they touch once, page after page, need not stay in memory. */
import { setFlagsFromString } from 'node:v8'
import type { Config, ServiceName } from './config.ts'

const holdLittle: readonly ServiceName[] = ['scanner', 'notifier', 'storage', 'api']

/**
 * V8 lets the heap of such a process grow to several times of what lives in it before it collects. Listing 100,000 files
 * over and over: 194 MB of process with its defaults, 125 MB with these, for the same time and CPU.
 * They are heuristics that V8 reads each time it decides, so they may be set in a process that runs; what copies, or
 * keeps records in memory, is better off with the defaults.
 */
export function keepHeapSmall({ services }: Pick<Config, 'services'>): void {
  if (!services.every((name) => holdLittle.includes(name))) return
  setFlagsFromString('--semi-space-growth-factor=1')
  setFlagsFromString('--heap-growing-percent=20')
}
