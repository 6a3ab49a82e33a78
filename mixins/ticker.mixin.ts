/** Calls an action of the service again and again, never two at once; stops cleanly, and sooner when a bell rings. */
import type { ServiceSchema } from 'moleculer'

interface TickerOptions {
  name: string
  everyMs: number
  /** The service's own action. A failure is logged once until it works again. */
  action: string
  /** It takes work in: no more once the node leaves, which is told well before the service is stopped. */
  takesWork?: boolean
}

const NOT_THERE_YET_MS = 200

interface Ticker {
  timer: NodeJS.Timeout | null
  running: Promise<void> | null
  again: boolean
  stopped: boolean
  failing: boolean
}

export function tickerMixin(options: TickerOptions): Partial<ServiceSchema> {
  const key = `${options.name}Ticker`
  function end(this: any) {
    const ticker: Ticker | undefined = this[key]
    if (!ticker) return
    ticker.stopped = true
    if (ticker.timer) clearTimeout(ticker.timer)
  }
  return {
    methods: {
      /** Ticks now, or once more after the tick that is running. */
      [`${options.name}Now`](this: any) {
        const ticker: Ticker | undefined = this[key]
        if (!ticker || ticker.stopped) return
        if (ticker.running) {
          ticker.again = true
          return
        }
        if (ticker.timer) clearTimeout(ticker.timer)
        const tick = async () => {
          // An action may ring our own bell before it awaits anything: by then this tick has to be known.
          await null
          const waitMs = await this[`${options.name}Tick`](ticker)
          ticker.running = null
          ticker.again = false
          if (!ticker.stopped) ticker.timer = setTimeout(() => this[`${options.name}Now`](), waitMs)
        }
        ticker.running = tick()
      },

      /** Answers how long to wait until the next one. */
      async [`${options.name}Tick`](this: any, ticker: Ticker): Promise<number> {
        // The start of the service has not ended: its actions are not there yet.
        if (!this.broker.registry.actions.isAvailable(options.action)) return NOT_THERE_YET_MS
        try {
          await this.broker.call(options.action, {}, { nodeID: this.broker.nodeID, timeout: 0, retries: 0 })
          if (ticker.failing) this.logger.info(`${options.name} works again`)
          ticker.failing = false
        } catch (error) {
          if (!ticker.failing) this.logger.warn(`${options.name} fails and is tried again: ${(error as Error).message}`)
          ticker.failing = true
        }
        return ticker.again && !ticker.failing ? 0 : options.everyMs
      }
    },

    started(this: any) {
      const ticker: Ticker = { timer: null, running: null, again: false, stopped: false, failing: false }
      this[key] = ticker
      ticker.timer = setTimeout(() => this[`${options.name}Now`](), Math.random() * Math.min(1000, options.everyMs))
    },

    events: options.takesWork ? { 'node.leaving': end } : {},

    async stopped(this: any) {
      end.call(this)
      await this[key]?.running
    }
  } as Partial<ServiceSchema>
}
