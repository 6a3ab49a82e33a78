/** A broker in memory: a message is there before its confirm, and a confirm may be lost. */
import { IngestError } from '../../domain/errors.ts'
import type { Message, Queue } from '../../drivers/queue/queue.ts'
import type { Life, World } from './world.ts'

export interface Delivered {
  message: Message
  /** Virtual date, ms. */
  at: number
}

export class SimulatedQueue {
  readonly delivered: Delivered[] = []
  readonly #world: World
  onPublish: (message: Message) => void = () => {}

  constructor(world: World) {
    this.#world = world
  }

  open(life: Life): Queue {
    const world = this.#world
    const failure = (message: string) => new IngestError('QUEUE_UNAVAILABLE', message)
    const ask = <R>(what: string, effect: () => R) => world.ask(life, { backend: 'queue', what, effect, failure })
    // One that could not be opened goes on trying by itself.
    let isOpen = false
    const askOpen = async (what: string, effect: () => void) => {
      if (!isOpen) throw failure('the queue is not open')
      await ask(what, effect)
    }
    const confirmed = (message: Message) => askOpen(`publish ${message.body.subject}`, () => this.#take(message))
    return {
      open: () => {
        isOpen = true
        return ask('queue.open', () => undefined)
      },
      publish: (message) => confirmed(message),
      ping: () => askOpen('queue.ping', () => undefined),
      async close() {
        isOpen = false
      }
    }
  }

  #take(message: Message): void {
    const { isFaulty, random, plan, timeline } = this.#world
    if (isFaulty && random.chance(plan.errors.queue)) {
      const refusals = [
        new IngestError('QUEUE_UNROUTABLE', 'no queue is bound'),
        new IngestError('QUEUE_NACKED', 'the broker refused it')
      ]
      throw random.pick(refusals)
    }
    // As it travels.
    const copy = JSON.parse(JSON.stringify(message)) as Message
    this.onPublish(copy)
    this.delivered.push({ message: copy, at: timeline.date })
  }
}
