/** A real NATS server on a loopback port of its own. */
import { freePort, onPath, type RunningProcess, startProcess } from './process.ts'

export interface NatsServer {
  url: string
  port: number
  /** Ends the server; `resume` starts it again on the same port. */
  halt(): Promise<void>
  resume(): Promise<void>
  stop(): Promise<void>
}

/** Starts nats-server without JetStream: Longshore keeps nothing in NATS. */
export async function startNats(options: { port?: number } = {}): Promise<NatsServer> {
  const program = await onPath('nats-server')
  if (program === null) throw new Error('nats-server was not found: install the Debian package nats-server')
  const port = options.port ?? (await freePort())
  const start = () =>
    startProcess(program, ['--addr', '127.0.0.1', '--port', String(port)], { ready: /Server is ready/ })
  let server: RunningProcess = await start()
  return {
    url: `nats://127.0.0.1:${port}`,
    port,
    halt: () => server.stop('SIGKILL'),
    async resume() {
      server = await start()
    },
    stop: () => server.stop()
  }
}
