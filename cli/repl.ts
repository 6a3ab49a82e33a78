/** What every command of the REPL has in common. */
import type { BrokerOptions, ServiceBroker } from 'moleculer'
import type { ServerRecord } from '../domain/server.ts'

interface Helpers {
  table(rows: string[][]): string
}
// biome-ignore lint/suspicious/noExplicitAny: what is typed at the prompt is parsed by the REPL's library
type Args = { options: Record<string, any> } & Record<string, any>
type Action = (broker: ServiceBroker, args: Args, helpers: Helpers) => Promise<void>

export interface Command {
  command: string
  description: string
  options?: { option: string; description: string }[]
  action: Action
}

export type Commands = NonNullable<NonNullable<BrokerOptions['replOptions']>['customCommands']>

/** A failure is one line, not a stack: the person at the prompt asked a question. */
export function shown(command: Action): Action {
  return async (broker, args, helpers) => {
    try {
      await command(broker, args, helpers)
    } catch (error) {
      console.log(`  ${(error as Error).message}`)
    }
  }
}

/** By id or by name. */
export function resolveServer(broker: ServiceBroker, ref: string): Promise<ServerRecord> {
  return broker.call('servers.resolve', { ref: String(ref) })
}
