import { policyOf, type ServerPolicy } from '../../domain/server.ts'
import { newServer, parseNewServer } from '../../domain/server-input.ts'

const { input } = parseNewServer({ name: 'acme', host: 'h', username: 'u', password: 'p' })

/** The policy of a server as it is created, but for one that takes everything at once. */
export const scanPolicy: ServerPolicy = {
  ...policyOf(newServer('s1', input, {}, 0)),
  tempPatterns: [],
  settle: { checks: 1, seconds: 0 }
}
