/**
 * Milliseconds of the processor that `work` took on this thread: unlike those of a clock they do not grow while the
 * machine does something else.
 */
export function cpuMsOf(work: () => void): number {
  const before = process.threadCpuUsage()
  work()
  const { user, system } = process.threadCpuUsage(before)
  return (user + system) / 1000
}

/**
 * Begins to watch; the function that it returns gives the milliseconds since then in which this process had something to
 * do and no processor: what a busy machine adds to a time that is measured in it.
 */
export function starvedMs(): () => number {
  const begun = { loop: performance.eventLoopUtilization(), cpu: process.threadCpuUsage() }
  return () => {
    const { active } = performance.eventLoopUtilization(begun.loop)
    const { user, system } = process.threadCpuUsage(begun.cpu)
    return Math.max(0, active - (user + system) / 1000)
  }
}
