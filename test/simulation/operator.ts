/** What operators do by the API, from a process of their own. */
import type { ServiceBroker } from 'moleculer'
import type { FileRecord } from '../../domain/file-record.ts'
import type { ServerRecord } from '../../domain/server.ts'
import { type Backends, createProcess } from './node.ts'
import type { Partner } from './snapshot.ts'
import { as } from './timeline.ts'
import type { Life } from './world.ts'

export class Operator {
  readonly #backends: Backends
  readonly #partners: Partner[]
  readonly #life: Life
  readonly #broker: ServiceBroker

  constructor(backends: Backends, partners: Partner[]) {
    this.#backends = backends
    this.#partners = partners
    this.#life = backends.world.newLife('operator', 'operator', 0)
    this.#broker = createProcess(this.#life, [], backends)
    as(this.#life, () => void this.#broker.start())
  }

  /** Until it is there: an operator tries again. */
  create(server: object): void {
    const { servers } = { servers: this.#backends.database.collection<ServerRecord>('servers').documents }
    const { id } = server as { id: string }
    const attempt = () => {
      if (servers.has(id)) return
      this.#call('servers.create', server).catch(() => this.#later(500, attempt))
    }
    this.#later(100, attempt)
  }

  /** Something that operators do. */
  act(): void {
    const { random, timeline } = this.#backends.world
    const files = [...this.#backends.database.collection<FileRecord>('files').documents.keys()]
    const partner = random.pick(this.#partners)
    const { id } = partner.source
    const file = files.length > 0 ? random.pick(files) : ''
    const acts: (() => void)[] = [
      () => this.#try('files.retry', { id: file }),
      () => this.#try('files.retryFailed', {}),
      () => this.#try('files.notify', { id: file }),
      () => this.#try('files.cancel', { id: file }),
      () => this.#try('files.refetch', { id: file }),
      () => this.#try('files.refetch', { id: file }),
      () => this.#try('scanner.scan', { id }),
      () => {
        if (partner.policy.interval)
          this.#try('servers.update', { id, input: { interval: random.whole(1, 9) }, secrets: {} })
      },
      () => {
        this.#try('servers.pause', { id })
        timeline.schedule(this.#backends.world.now + random.between(500, 15_000), null, () =>
          this.#try('servers.resume', { id })
        )
      }
    ]
    random.pick(acts)()
  }

  /** With what is in flight; until it is done, as an operator tries again. Where it is not there yet it stays. */
  remove(): void {
    const { random } = this.#backends.world
    const { documents } = this.#backends.database.collection<ServerRecord>('servers')
    const partner = random.pick(this.#partners)
    const { id } = partner.source
    if (!documents.has(id)) return
    const purge = random.chance(0.5)
    partner.removed = { purge }
    const attempt = () => {
      if (documents.get(id)?.deletedAt) return
      this.#call('servers.remove', { id, force: true, purge }).catch(() => this.#later(500, attempt))
    }
    attempt()
  }

  /** When all works again, whoever is paused or stopped is started, and sometimes nobody waits for a back-off. */
  heal(): void {
    const { random } = this.#backends.world
    const isImpatient = random.chance(0.5)
    for (const { source, removed } of this.#partners) {
      if (removed) continue
      if (isImpatient) this.#surely('servers.resume', { id: source.id })
      // A pause that was asked for before may come late.
      for (const afterMs of [0, 3_000, 8_000]) this.#later(afterMs, () => this.#resume(source.id))
    }
    if (isImpatient) this.#try('files.retryFailed', {})
  }

  #resume(id: string): void {
    const server = this.#backends.database.collection<ServerRecord>('servers').documents.get(id)
    if (server && !server.deletedAt && server.state !== 'active') this.#surely('servers.resume', { id })
  }

  end(): void {
    this.#life.isDead = true
  }

  #try(action: string, params: object): void {
    this.#call(action, params).catch(() => undefined)
  }

  #surely(action: string, params: object): void {
    this.#call(action, params).catch((error: { type?: string }) => {
      // Its server may be removed meanwhile.
      if (error.type !== 'NOT_FOUND') this.#later(500, () => this.#surely(action, params))
    })
  }

  #call(action: string, params: object): Promise<unknown> {
    this.#backends.world.note(() => `the operator calls ${action} ${JSON.stringify(params).slice(0, 200)}`)
    return as(this.#life, () => this.#broker.call(action, params))
  }

  #later(afterMs: number, act: () => void): void {
    const { world } = this.#backends
    world.timeline.schedule(world.now + afterMs, null, act)
  }
}
