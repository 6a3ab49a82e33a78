/** A real NATS server on a loopback port of its own. */
import { accepts, freePort } from './ports.ts'
import { onPath, type RunningProcess, startProcess } from './process.ts'

export interface NatsServer {
  url: string
  port: number
  /** Ends the server; `resume` starts it again on the same port. */
  halt(): Promise<void>
  resume(): Promise<void>
  stop(): Promise<void>
}

/** Starts nats-server without JetStream: Longshore keeps nothing in NATS. With `password`, only `longshore` may connect. */
export async function startNats(options: { port?: number; password?: string } = {}): Promise<NatsServer> {
  const program = await onPath('nats-server')
  if (program === null) throw new Error('nats-server was not found: install the Debian package nats-server')
  const port = options.port ?? (await freePort())
  const login = options.password ? ['--user', 'longshore', '--pass', options.password] : []
  const start = () =>
    startProcess(program, ['--addr', '127.0.0.1', '--port', String(port), ...login], {
      ready: async (output) => /Server is ready/.test(output) && (await accepts(port))
    })
  let server: RunningProcess = await start()
  return {
    url: `nats://${options.password ? `longshore:${options.password}@` : ''}127.0.0.1:${port}`,
    port,
    halt: () => server.stop('SIGKILL'),
    async resume() {
      server = await start()
    },
    stop: () => server.stop()
  }
}
