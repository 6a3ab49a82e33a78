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
