/** Loopback ports for servers of the tests. */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { connect, createServer, type Server } from 'node:net'

const LOWEST = 10_000
/** Where Linux begins by default with the ports that it gives to whoever asks for any. */
const DEFAULT_EPHEMERAL = 32_768

/** What keeps a port for this process; never closed, so that a server that ends finds its port again. */
const claims: Server[] = []

/**
 * A port on which nothing listens, and which is this process's for as long as it lives: a server that is away for a
 * while comes back to it. It is of those that the system gives to nobody by itself, since any connection that is made
 * meanwhile could have got another one; and no other test process takes it, which sees the claim to it.
 */
export async function freePort(): Promise<number> {
  const end = await ephemeralStart()
  for (;;) {
    const port = LOWEST + Math.floor(Math.random() * (end - LOWEST))
    if ((await claim(port)) && (await isFree(port))) return port
  }
}

/** Whether something on loopback takes a connection on this port now. */
export async function accepts(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

async function ephemeralStart(): Promise<number> {
  const range = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').catch(() => '')
  const start = Number.parseInt(range, 10)
  return start > 2 * LOWEST ? start : DEFAULT_EPHEMERAL
}

/** A socket with a name of Linux's own, without a file: it is gone with its process, however that ends. */
async function claim(port: number): Promise<boolean> {
  if (process.platform !== 'linux') return true
  const server = createServer()
  if (!(await listens(server, { path: `\0longshore-test-port-${port}` }))) return false
  server.unref()
  claims.push(server)
  return true
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  if (!(await listens(server, { port, host: '127.0.0.1' }))) return false
  server.close()
  await once(server, 'close')
  return true
}

function listens(server: Server, where: { path: string } | { port: number; host: string }): Promise<boolean> {
  return new Promise((resolve) => {
    server.once('error', () => resolve(false))
    server.listen(where, () => resolve(true))
  })
}
