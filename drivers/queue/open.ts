import { join } from 'node:path'
import type { Config } from '../../config.ts'
import { journalQueue } from './journal.ts'
import type { Queue } from './queue.ts'
import { rabbitQueue } from './rabbit.ts'

interface Log {
  info(message: string): void
  warn(message: string): void
}

/** The queue that the environment chooses. */
export function openQueue(config: Config, log: Log): Queue {
  if (config.amqp) return rabbitQueue({ ...config.amqp, log })
  return journalQueue({ path: join(config.dataDir, 'notifications.ndjson'), log })
}
