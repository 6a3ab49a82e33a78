/**
 * What is written to a connection in one turn of the event loop, in one system call. ssh2 writes each request by itself;
 * the requests of many small files, sent together, would otherwise cost as much as their bytes do.
 */
import type { Socket } from 'node:net'

export function gatherWrites(socket: Socket): void {
  const write = socket.write as (...given: unknown[]) => boolean
  let isGathering = false
  socket.write = ((...given: unknown[]) => {
    if (!isGathering) {
      isGathering = true
      socket.cork()
      // Runs when the answers that have arrived are dealt with, and before anything else is waited for.
      process.nextTick(() => {
        isGathering = false
        socket.uncork()
      })
    }
    return write.apply(socket, given)
  }) as Socket['write']
}
