/**
 * The seeded nemesis: picks faults one after another, up to three at a time and never two of one target, and heals each
 * after its time. Which faults and how long they last follow from the seed; what they hit in that moment does not.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Backends } from '../../support/longshore.ts'
import type { Random } from '../../support/random.ts'
import type { S3Fault, S3Operation } from '../../support/s3-proxy.ts'
import type { Fleet, Member } from './fleet.ts'

export interface Injected {
  /** Seconds after the beginning. */
  at: number
  fault: string
  seconds: number
}

export interface Nemesis {
  readonly injected: readonly Injected[]
  /** What a fault itself broke, such as a process that did not stop in time. */
  readonly problems: readonly string[]
  /** Ends every fault that is under way and repairs what it broke; resolves when all is healed. */
  stop(): Promise<void>
}

export interface NemesisOptions {
  backends: Backends
  fleet: Fleet
  random: Random
  log(line: string): void
}

interface Fault {
  name: string
  weight: number
  /** Two faults of one target are never under way together. */
  target: string
  /** Seconds, drawn evenly. */
  lasts: [number, number]
  strike(random: Random): Promise<Heal> | Heal
}
/** Repairs it; answers a word on what was hit. */
interface Heal {
  on: string
  heal(): Promise<void> | void
}

/** Longer than a lease of 30 s with its margin. */
const LONG: [number, number] = [3, 45]
const SHORT: [number, number] = [3, 20]
const MOMENT: [number, number] = [0, 0]
const AT_ONCE = 3
/** What a process has by its own promise before it ends itself, and a little for a busy machine. */
const STOP_DEADLINE_MS = 35_000

export function startNemesis(options: NemesisOptions): Nemesis {
  const { random, log } = options
  const injected: Injected[] = []
  const problems: string[] = []
  const stopping = new AbortController()
  const startedAt = Date.now()
  const faults = faultsOf(options, problems)
  const targets = new Set<string>()
  const running = new Set<Promise<void>>()

  const strike = async (fault: Fault, chance: Random) => {
    const at = Math.round((Date.now() - startedAt) / 1000)
    const planned = chance.between(...fault.lasts)
    const { on, heal } = await fault.strike(chance)
    const name = on ? `${fault.name} ${on}` : fault.name
    log(`${at} s: ${name}${planned ? ` for ${planned} s` : ''}`)
    const struckAt = Date.now()
    await delay(planned * 1000, undefined, { signal: stopping.signal }).catch(() => undefined)
    await heal()
    injected.push({ at, fault: name, seconds: Math.round((Date.now() - struckAt) / 1000) })
  }
  const begin = (fault: Fault) => {
    targets.add(fault.target)
    const one = strike(fault, random.fork())
      .catch((error: Error) => {
        problems.push(`the nemesis itself failed in ${fault.name}: ${error.message}`)
      })
      .finally(() => {
        targets.delete(fault.target)
        running.delete(one)
      })
    running.add(one)
  }
  const run = async () => {
    while (!stopping.signal.aborted) {
      await delay(random.between(300, 3000), undefined, { signal: stopping.signal }).catch(() => undefined)
      if (stopping.signal.aborted) return
      const possible = faults.filter(({ target }) => !targets.has(target))
      const all = possible.reduce((sum, { weight }) => sum + weight, 0)
      let at = random.next() * all
      const chosen = possible.find(({ weight }) => {
        at -= weight
        return at < 0
      })
      if (chosen && running.size < AT_ONCE) begin(chosen)
    }
  }
  const ended = run()
  return {
    injected,
    problems,
    async stop() {
      stopping.abort()
      await ended
      await Promise.all(running)
    }
  }
}

function faultsOf({ backends, fleet }: NemesisOptions, problems: string[]): Fault[] {
  return [
    ...processFaults(fleet, problems),
    ...sftpFaults(backends),
    ...storeFaults(backends),
    ...brokerFaults(backends),
    ...databaseFaults(backends),
    ...natsFaults(backends)
  ]
}

const nothing = (on = ''): Heal => ({ on, heal: () => undefined })

function processFaults(fleet: Fleet, problems: string[]): Fault[] {
  const alive = (random: Random): Member | null => {
    const there = fleet.members.filter(({ process, isFrozen }) => process && !isFrozen)
    // Workers are hit more often than the others: they have the most to lose.
    const workers = there.filter(({ group }) => group === 'transfer' || group === 'scanner')
    const among = workers.length > 0 && random.chance(0.4) ? workers : there
    return among.length > 0 ? random.pick(among) : null
  }
  const ending = (signal: NodeJS.Signals) => async (random: Random) => {
    const member = alive(random)
    if (!member) return nothing('nobody')
    const ended = fleet.end(member, signal, random.between(100, 5000)).then(({ tookMs }) => {
      if (tookMs > STOP_DEADLINE_MS) problems.push(`${member.name} took ${tookMs} ms to end after ${signal}`)
    })
    return { on: member.name, heal: () => ended }
  }
  return [
    { name: 'kill -9', weight: 12, target: 'kill', lasts: MOMENT, strike: ending('SIGKILL') },
    { name: 'SIGTERM', weight: 5, target: 'term', lasts: MOMENT, strike: ending('SIGTERM') },
    {
      name: 'SIGSTOP',
      weight: 6,
      target: 'freeze',
      lasts: LONG,
      strike(random) {
        const member = alive(random)
        // One that is ending has a deadline, which would pass while it stands still.
        if (!member || member.isEnding) return nothing('nobody')
        fleet.freeze(member)
        return { on: member.name, heal: () => fleet.thaw(member) }
      }
    }
  ]
}

function sftpFaults({ proxy }: Backends): Fault[] {
  const sftp = proxy!
  const target = 'sftp'
  const momentary = (name: string, act: (random: Random) => void): Fault => ({
    ...{ name, weight: 4, target, lasts: MOMENT },
    strike(random) {
      act(random)
      return nothing()
    }
  })
  return [
    momentary('SFTP cut', () => sftp.cut()),
    momentary('SFTP cut in mid-file', (random) => sftp.cutAfter(random.between(1, 40) * 1024 * 1024)),
    {
      ...{ name: 'SFTP half open', weight: 3, target, lasts: LONG },
      strike() {
        sftp.blackhole()
        return { on: '', heal: () => sftp.restore() }
      }
    },
    {
      ...{ name: 'SFTP refused', weight: 3, target, lasts: LONG },
      async strike() {
        await sftp.refuse()
        sftp.cut()
        return { on: '', heal: () => sftp.accept() }
      }
    },
    {
      ...{ name: 'SFTP throttled', weight: 3, target, lasts: SHORT },
      strike(random) {
        const bytesPerSecond = random.between(50, 2000) * 1024
        sftp.throttle(bytesPerSecond)
        return { on: `to ${bytesPerSecond >> 10} KiB/s`, heal: () => sftp.throttle(null) }
      }
    },
    {
      ...{ name: 'SFTP delayed', weight: 3, target, lasts: SHORT },
      strike(random) {
        const ms = random.between(10, 300)
        sftp.delay(ms)
        return { on: `by ${ms} ms`, heal: () => sftp.delay(0) }
      }
    }
  ]
}

function storeFaults({ proxies, minio }: Backends): Fault[] {
  const s3 = proxies!.s3
  const target = 's3'
  /** A fault for some of the requests. */
  const some = (name: string, fault: S3Fault, probability: number, of: S3Operation[] | null): Fault => ({
    ...{ name, weight: 2, target, lasts: SHORT },
    strike(random) {
      s3.fault = ({ operation }) => ((!of || of.includes(operation)) && random.chance(probability) ? fault : null)
      const heal = () => {
        s3.fault = null
        s3.release()
      }
      return { on: '', heal }
    }
  })
  return [
    some('S3 500', { kind: 'answer', status: 500, code: 'InternalError' }, 0.5, null),
    some('S3 503', { kind: 'answer', status: 503, code: 'SlowDown' }, 0.5, null),
    some('S3 full (507)', { kind: 'answer', status: 507, code: 'XMinioStorageFull' }, 1, ['put', 'part', 'create']),
    some('S3 reset', { kind: 'reset' }, 0.4, null),
    some('S3 lost replies', { kind: 'lostReply' }, 0.4, null),
    some('S3 flipped bytes', { kind: 'flip' }, 0.4, ['put', 'part']),
    some('S3 errors in a 200', { kind: 'answer', status: 200, code: 'InternalError' }, 0.6, ['complete']),
    some('S3 slow', { kind: 'slow', bytesPerSecond: 300 * 1024 }, 1, ['put', 'part']),
    { ...some('S3 silent', { kind: 'silent' }, 0.7, null), lasts: LONG },
    {
      ...{ name: 'MinIO kill -9', weight: 3, target, lasts: SHORT },
      async strike() {
        await minio.halt('SIGKILL')
        return { on: '', heal: () => minio.resume() }
      }
    },
    {
      ...{ name: 'MinIO SIGSTOP', weight: 2, target, lasts: LONG },
      strike() {
        process.kill(minio.pid, 'SIGSTOP')
        return { on: '', heal: () => void process.kill(minio.pid, 'SIGCONT') }
      }
    }
  ]
}

function brokerFaults({ proxies, rabbit }: Backends): Fault[] {
  const amqp = proxies!.amqp
  const target = 'broker'
  return [
    {
      ...{ name: 'RabbitMQ blocked', weight: 4, target, lasts: LONG },
      async strike() {
        await rabbit.ctl('set_vm_memory_high_watermark', '0')
        return { on: '', heal: async () => void (await rabbit.ctl('set_vm_memory_high_watermark', '0.4')) }
      }
    },
    {
      ...{ name: 'RabbitMQ kill -9', weight: 2, target, lasts: SHORT },
      async strike() {
        await rabbit.halt('SIGKILL')
        return { on: '', heal: () => rabbit.restart() }
      }
    },
    {
      ...{ name: 'AMQP cut', weight: 4, target, lasts: MOMENT },
      strike() {
        amqp.cut()
        return nothing()
      }
    },
    {
      ...{ name: 'AMQP half open', weight: 3, target, lasts: LONG },
      strike() {
        amqp.blackhole()
        return { on: '', heal: () => amqp.restore() }
      }
    }
  ]
}

function databaseFaults({ proxies, mongo }: Backends): Fault[] {
  const proxy = proxies!.mongo
  const target = 'database'
  const faults: Fault[] = [
    {
      ...{ name: 'MongoDB cut', weight: 4, target, lasts: MOMENT },
      strike() {
        proxy.cut()
        return nothing()
      }
    },
    {
      ...{ name: 'MongoDB half open', weight: 3, target, lasts: LONG },
      strike() {
        proxy.blackhole()
        return { on: '', heal: () => proxy.restore() }
      }
    },
    {
      ...{ name: 'MongoDB delayed', weight: 2, target, lasts: SHORT },
      strike(random) {
        const ms = random.between(5, 60)
        proxy.delay(ms)
        return { on: `by ${ms} ms`, heal: () => proxy.delay(0) }
      }
    }
  ]
  const { pid } = mongo
  if (pid === null) return faults
  const paused: Fault = {
    ...{ name: 'MongoDB SIGSTOP', weight: 4, target, lasts: LONG },
    strike() {
      process.kill(pid, 'SIGSTOP')
      return { on: '', heal: () => void process.kill(pid, 'SIGCONT') }
    }
  }
  return [...faults, paused]
}

function natsFaults({ proxies, nats }: Backends): Fault[] {
  const [a, b] = proxies!.nats
  const target = 'nats'
  return [
    {
      ...{ name: 'NATS partition', weight: 5, target, lasts: LONG },
      strike(random) {
        const [side, name] = random.pick([
          [a, 'of side a'],
          [b, 'of side b']
        ] as const)
        side.blackhole()
        return { on: name, heal: () => side.restore() }
      }
    },
    {
      ...{ name: 'NATS cut', weight: 3, target, lasts: MOMENT },
      strike() {
        a.cut()
        b.cut()
        return nothing()
      }
    },
    {
      ...{ name: 'NATS away', weight: 3, target, lasts: SHORT },
      async strike() {
        await nats.halt()
        return { on: '', heal: () => nats.resume() }
      }
    }
  ]
}
