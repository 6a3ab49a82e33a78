/** Two instances of every service as processes, and the supervisor that starts again whatever ended. */
import { randomBytes } from 'node:crypto'
import { resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { RunFolders } from '../../support/leftovers.ts'
import { type Backends, cleanEnvironment, listenFor, through } from '../../support/longshore.ts'
import { freePort } from '../../support/ports.ts'
import { type RunningProcess, START_MS, startProcess, temporaryFolder } from '../../support/process.ts'
import { type RestClient, restClient } from '../../support/rest.ts'
import { waitFor } from '../../support/wait.ts'

const program = resolve(import.meta.dirname, '../../..')

/** Services that share a process, so that two of each are ten processes and not fourteen. */
const groups = ['servers,files', 'scanner', 'transfer', 'storage,notifier', 'api'] as const

export interface Member {
  readonly name: string
  readonly group: (typeof groups)[number]
  /** 0 or 1: which proxy to NATS it uses. */
  readonly side: number
  readonly process: RunningProcess | null
  isFrozen: boolean
  /** It was asked to end, or killed, and has not been started again. */
  readonly isEnding: boolean
}

export interface Fleet {
  readonly members: readonly Member[]
  readonly keys: { admin: string }
  readonly folders: RunFolders
  /** The API of one side. */
  api(side: number): RestClient
  /** Processes that ended though nobody ended them, each with the end of what it wrote, or that wrote a secret: none should. */
  readonly ownEnds: readonly string[]
  /** Ends one by a signal; it is started again after `awayMs`, or by `all`. Resolves when it is gone. */
  end(member: Member, signal: NodeJS.Signals, awayMs: number): Promise<{ code: number | null; tookMs: number }>
  freeze(member: Member): void
  thaw(member: Member): void
  /** Everything runs again: what is frozen goes on, what is away is started at once. */
  all(): Promise<void>
  /** Resolves when both APIs say that everything is there. */
  ready(): Promise<void>
  output(): string
  stop(): Promise<void>
}

interface Place extends Member {
  process: RunningProcess | null
  starting: Promise<void> | null
  isEnding: boolean
  timer: NodeJS.Timeout | undefined
  past: string
}

export async function startFleet(backends: Backends): Promise<Fleet> {
  const folder = await temporaryFolder('chaos')
  const ownTemporary = await temporaryFolder('temporary')
  const ports = [await freePort(), await freePort()]
  const keys = { admin: randomBytes(18).toString('hex') }
  backends.canaries.push(keys.admin)
  const ownEnds: string[] = []
  let isOver = false

  const places: Place[] = [0, 1].flatMap((side) =>
    groups.map((group) => {
      const name = `${group.replace(',', '+')}-${'ab'[side]}`
      return {
        name,
        group,
        side,
        process: null,
        starting: null,
        isFrozen: false,
        isEnding: false,
        timer: undefined,
        past: ''
      }
    })
  )

  const start = (place: Place): Promise<void> => {
    clearTimeout(place.timer)
    place.starting ??= (async () => {
      const started = await startProcess(process.execPath, ['main.ts'], {
        cwd: program,
        env: {
          ...cleanEnvironment,
          DATA_DIR: folder.path,
          TMPDIR: ownTemporary.path,
          ALLOW_NETWORKS: '127.0.0.0/8',
          RATE_LIMIT: '0',
          API_PORT: String(ports[place.side]),
          API_KEYS: `admin:admin:${keys.admin}`,
          ...backends.env,
          TRANSPORTER: through(backends.nats.url, backends.proxies!.nats[place.side]),
          SERVICES: place.group
        },
        listen: listenFor(
          () => backends.canaries,
          () => ownEnds.push(`${place.name} wrote a secret into its output`)
        )
      })
      place.process = started
      place.isFrozen = false
      place.isEnding = false
      void started.exited.then(({ code, signal }) => {
        place.past = (place.past + started.output()).slice(-512 * 1024)
        place.process = null
        if (place.isEnding || isOver) return
        ownEnds.push(`${place.name} ended by itself (${code ?? signal}): ${started.output().trim().split('\n').at(-1)}`)
        place.timer = setTimeout(() => start(place).catch(() => undefined), 1000)
      })
    })().finally(() => {
      place.starting = null
    })
    return place.starting
  }
  const apis = ports.map((port) => restClient(() => `http://127.0.0.1:${port}`, keys.admin))

  const fleet: Fleet = {
    members: places,
    keys,
    folders: { data: folder.path, temporary: ownTemporary.path },
    api: (side) => apis[side]!,
    ownEnds,
    async end(member, signal, awayMs) {
      const place = member as Place
      const { process: running } = place
      if (!running) return { code: null, tookMs: 0 }
      place.isEnding = true
      const askedAt = Date.now()
      process.kill(running.pid, signal)
      const { code } = await running.exited
      place.timer = setTimeout(() => start(place).catch(() => undefined), awayMs)
      return { code, tookMs: Date.now() - askedAt }
    },
    freeze(member) {
      if (member.process) process.kill(member.process.pid, 'SIGSTOP')
      member.isFrozen = true
    },
    thaw(member) {
      if (member.process && member.isFrozen) process.kill(member.process.pid, 'SIGCONT')
      member.isFrozen = false
    },
    async all() {
      for (const place of places) fleet.thaw(place)
      await Promise.all(places.map((place) => (place.process ? null : start(place))))
    },
    async ready() {
      const isReady = async () => {
        const answers = await Promise.all(apis.map((api) => api.request('GET', '/health/ready')))
        return answers.every(({ status }) => status === 200)
      }
      await waitFor(isReady, { timeoutMs: START_MS, what: 'both sides to be ready', explain: fleet.output })
    },
    output: () =>
      places.map(({ name, past, process: running }) => `--- ${name}\n${past}${running?.output() ?? ''}`).join('\n'),
    async stop() {
      isOver = true
      for (const place of places) {
        clearTimeout(place.timer)
        fleet.thaw(place)
        await place.starting?.catch(() => undefined)
      }
      await Promise.all(places.map(({ process: running }) => running?.stop('SIGKILL')))
      await delay(0)
      await folder.remove()
      await ownTemporary.remove()
    }
  }
  try {
    await fleet.all()
    await fleet.ready()
    return fleet
  } catch (error) {
    await fleet.stop()
    throw error
  }
}
