/**
 * `npm run console`: the Moleculer REPL with Longshore's commands. With TRANSPORTER set it is a node of its own that
 * carries no service, so that leaving it stops nothing; without, it runs every service itself.
 */

import { replCommands } from './cli/repl-commands.ts'
import { ConfigError, loadConfig } from './config.ts'
import { createNode, stopNode } from './node.ts'

try {
  const isGuest = Boolean(process.env.TRANSPORTER || process.env.TRANSPORTER_FILE)
  const config = loadConfig(process.env, { withoutServices: isGuest })
  const broker = await createNode(config, {
    replOptions: { delimiter: 'longshore $', customCommands: replCommands },
    ...(isGuest ? { nodeID: `console-${process.pid}` } : {})
  })
  await broker.start()
  if (isGuest)
    await broker.waitForServices(['servers', 'files'], 5_000).catch(() => console.log('no services found yet'))
  broker.repl()
  process.on('SIGTERM', () => stopNode(broker).then(() => process.exit(0)))
} catch (error) {
  if (!(error instanceof ConfigError)) throw error
  console.error(`longshore: ${error.message}`)
  process.exit(1)
}
