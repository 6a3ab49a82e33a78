/** A TCP proxy on loopback that can cut, delay, throttle, swallow and refuse: the network's faults on demand. */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { freePort } from './ports.ts'

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
  /** The connections that are open now stay open, and nothing moves on them any more; new ones work. */
  silence(): void
  /** The round trip that is added from now on; 0 ends it. */
  delay(roundTripMs: number): void
  /** What each connection carries each way from now on; null ends it. */
  throttle(bytesPerSecond: number | null): void
  /** New connections are refused. */
  refuse(): Promise<void>
  accept(): Promise<void>
  /** Connections accepted so far. */
  readonly accepted: number
  /** Connections that are open now. */
  readonly open: number
  /** Bytes that came from the target so far, over all connections. */
  readonly received: number
  /** Bytes that went to the target so far, over all connections. */
  readonly sent: number
  close(): Promise<void>
}

interface Link {
  inner: Socket
  outer: Socket
  fromTarget: number
  pace: Pace
  /** Moves what waited while everything was swallowed. */
  resume(): void
}

interface Pace {
  delayMs: number
  bytesPerSecond: number | null
  isHeld: boolean
}

export async function startProxy(options: ProxyOptions): Promise<FaultyProxy> {
  const links = new Set<Link>()
  let server: Server | null = null
  const pace: Pace = { delayMs: options.delayMs ?? 0, bytesPerSecond: null, isHeld: false }
  let cutAt: number | null = null
  let accepted = 0
  let received = 0
  let sent = 0
  const port = await freePort()

  const reset = (link: Link) => {
    links.delete(link)
    for (const socket of [link.inner, link.outer]) {
      // A socket whose end is on its way cannot be reset: libuv refuses, and Node would keep its handle for ever.
      if (socket.writableEnded) socket.destroy()
      else socket.resetAndDestroy()
    }
  }
  const cut = () => {
    for (const link of links) reset(link)
  }

  const resumeAll = () => {
    for (const link of links) link.resume()
  }

  const connected = (inner: Socket) => {
    accepted++
    const outer = connect({ ...options.target, noDelay: true })
    inner.setNoDelay(true)
    // Its own, with all that is set for everybody.
    const own: Pace = Object.create(pace)
    const back = move(outer, inner, own, (bytes) => {
      link.fromTarget += bytes
      received += bytes
      if (cutAt === null || link.fromTarget < cutAt) return true
      cutAt = null
      reset(link)
      return false
    })
    const forth = move(inner, outer, own, (bytes) => {
      sent += bytes
      return true
    })
    const link: Link = {
      inner,
      outer,
      fromTarget: 0,
      pace: own,
      resume: () => {
        back()
        forth()
      }
    }
    links.add(link)
    for (const socket of [inner, outer]) {
      socket.on('error', () => reset(link))
      socket.on('close', () => {
        links.delete(link)
        // What it still carries is not on its way to anybody.
        if (Object.hasOwn(own, 'isHeld')) reset(link)
      })
    }
  }

  const listen = async () => {
    server = createServer(connected)
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
  }
  await listen()

  return {
    port,
    get accepted() {
      return accepted
    },
    get open() {
      return links.size
    },
    get received() {
      return received
    },
    get sent() {
      return sent
    },
    cut,
    cutAfter: (bytes) => {
      for (const link of links) link.fromTarget = 0
      cutAt = bytes
    },
    blackhole: () => {
      pace.isHeld = true
    },
    restore: () => {
      pace.isHeld = false
      resumeAll()
    },
    silence: () => {
      for (const link of links) link.pace.isHeld = true
    },
    delay: (roundTripMs) => {
      pace.delayMs = roundTripMs
    },
    throttle: (bytesPerSecond) => {
      pace.bytesPerSecond = bytesPerSecond
      resumeAll()
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

/** Queued for one direction of a throttled connection; more than this, and the sender is held up. */
const THROTTLED_BYTES = 128 * 1024

/**
 * Moves bytes one way; returns what moves on after a hold. Chunks wait in one queue, so their order stays whatever the
 * timers do. `mayPass` sees the size of each chunk before it is passed on.
 */
function move(from: Socket, to: Socket, pace: Pace, mayPass: (bytes: number) => boolean): () => void {
  const queue: { chunk: Buffer | null; due: number }[] = []
  let queuedBytes = 0
  let freeAt = 0
  let timer: NodeJS.Timeout | undefined

  const flush = () => {
    while (queue.length > 0 && !pace.isHeld) {
      const { chunk, due } = queue[0]!
      const now = performance.now()
      const waitMs = Math.max(due, pace.bytesPerSecond === null ? 0 : freeAt) - now
      if (waitMs > 0) {
        clearTimeout(timer)
        // Rounded up: a timer that fires a little early would leave the chunk until the next one.
        timer = setTimeout(flush, Math.ceil(waitMs) + 1)
        return
      }
      queue.shift()
      if (chunk === null) {
        to.end()
        continue
      }
      if (!mayPass(chunk.length)) return
      queuedBytes -= chunk.length
      if (pace.bytesPerSecond !== null) freeAt = now + (chunk.length * 1000) / pace.bytesPerSecond
      // With a delay the sender goes on: throughput is not what is limited then.
      if (!to.write(chunk) && pace.delayMs === 0) from.pause()
    }
    if (!pace.isHeld && !to.writableNeedDrain) from.resume()
  }
  const take = (chunk: Buffer | null) => {
    queue.push({ chunk, due: performance.now() + pace.delayMs / 2 })
    queuedBytes += chunk?.length ?? 0
    if (pace.isHeld || (pace.bytesPerSecond !== null && queuedBytes > THROTTLED_BYTES)) from.pause()
    flush()
  }
  from.on('data', take)
  from.on('end', () => take(null))
  // Not at the end of `from`: what is queued still has to arrive.
  to.on('close', () => clearTimeout(timer))
  to.on('drain', flush)
  return flush
}
