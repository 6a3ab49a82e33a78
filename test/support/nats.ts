/** A real NATS server on a loopback port of its own. */
import { freePort, onPath, startProcess } from './process.ts'

export interface NatsServer {
  url: string
  port: number
  stop(): Promise<void>
}

/** Starts nats-server without JetStream: Longshore keeps nothing in NATS. */
export async function startNats(options: { port?: number } = {}): Promise<NatsServer> {
  const program = await onPath('nats-server')
  if (program === null) throw new Error('nats-server was not found: install the Debian package nats-server')
  const port = options.port ?? (await freePort())
  const server = await startProcess(program, ['--addr', '127.0.0.1', '--port', String(port)], {
    ready: /Server is ready/
  })
  return { url: `nats://127.0.0.1:${port}`, port, stop: () => server.stop() }
}
