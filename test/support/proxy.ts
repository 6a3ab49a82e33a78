/** A TCP proxy on loopback that can cut, delay, swallow and refuse: the network's faults on demand. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

export interface ProxyOptions {
  target: { host: string; port: number }
  /** Round trip added, half of it each way; order is kept and throughput not limited. */
  delayMs?: number
}

export interface FaultyProxy {
  readonly port: number
  /** Resets every connection. */
  cut(): void
  /** Resets, once, the next connection over which so many bytes came from the target from now on. */
  cutAfter(bytes: number): void
  /** Connections are accepted and stay open, but nothing moves. */
  blackhole(): void
  restore(): void
  /** New connections are refused. */
  refuse(): Promise<void>
  accept(): Promise<void>
  /** Connections accepted so far. */
  readonly accepted: number
  /** Bytes that came from the target so far, over all connections. */
  readonly received: number
  close(): Promise<void>
}

interface Link {
  inner: Socket
  outer: Socket
  fromTarget: number
  /** Moves what waited while everything was swallowed. */
  resume(): void
}

export async function startProxy(options: ProxyOptions): Promise<FaultyProxy> {
  const links = new Set<Link>()
  let server: Server | null = null
  let swallowing = false
  let cutAt: number | null = null
  let accepted = 0
  let received = 0
  let port = 0

  const reset = (link: Link) => {
    links.delete(link)
    link.inner.resetAndDestroy()
    link.outer.resetAndDestroy()
  }
  const cut = () => {
    for (const link of links) reset(link)
  }

  const connected = (inner: Socket) => {
    accepted++
    const outer = connect({ ...options.target, noDelay: true })
    inner.setNoDelay(true)
    const isHeld = () => swallowing
    const back = move(outer, inner, isHeld, options.delayMs, (bytes) => {
      link.fromTarget += bytes
      received += bytes
      if (cutAt === null || link.fromTarget < cutAt) return true
      cutAt = null
      reset(link)
      return false
    })
    const forth = move(inner, outer, isHeld, options.delayMs, () => true)
    const link: Link = {
      inner,
      outer,
      fromTarget: 0,
      resume: () => {
        back()
        forth()
      }
    }
    links.add(link)
    for (const socket of [inner, outer]) {
      socket.on('error', () => reset(link))
      socket.on('close', () => links.delete(link))
    }
  }

  const listen = async () => {
    server = createServer(connected)
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    port = (server.address() as AddressInfo).port
  }
  await listen()

  return {
    get port() {
      return port
    },
    get accepted() {
      return accepted
    },
    get received() {
      return received
    },
    cut,
    cutAfter: (bytes) => {
      for (const link of links) link.fromTarget = 0
      cutAt = bytes
    },
    blackhole: () => {
      swallowing = true
    },
    restore: () => {
      swallowing = false
      for (const link of links) link.resume()
    },
    refuse: async () => {
      // Stops listening at once; the callback would wait for the open connections.
      server?.close()
      server = null
    },
    accept: async () => {
      if (!server) await listen()
    },
    close: async () => {
      const closed = server && once(server, 'close')
      server?.close()
      cut()
      await closed
    }
  }
}

/**
 * Moves bytes one way; returns what moves on after a hold. Chunks wait in one queue, so their order stays whatever the
 * timers do. `mayPass` sees the size of each chunk before it is passed on.
 */
function move(
  from: Socket,
  to: Socket,
  isHeld: () => boolean,
  delayMs: number | undefined,
  mayPass: (bytes: number) => boolean
): () => void {
  const queue: { chunk: Buffer | null; due: number }[] = []
  const flush = () => {
    const now = performance.now()
    while (queue.length > 0 && !isHeld() && queue[0]!.due <= now) {
      const { chunk } = queue.shift()!
      if (chunk === null) to.end()
      else if (!mayPass(chunk.length)) return
      else if (!to.write(chunk) && !delayMs) from.pause()
    }
  }
  const take = (chunk: Buffer | null) => {
    const wait = (delayMs ?? 0) / 2
    queue.push({ chunk, due: performance.now() + wait })
    // Rounded up: a timer that fires a little early would leave the chunk until the next one.
    if (wait > 0) setTimeout(flush, Math.ceil(wait) + 1)
    else if (isHeld()) from.pause()
    else flush()
  }
  from.on('data', take)
  from.on('end', () => take(null))
  to.on('drain', () => from.resume())
  return () => {
    flush()
    from.resume()
  }
}
