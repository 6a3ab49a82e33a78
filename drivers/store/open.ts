import { join } from 'node:path'
import type { Config } from '../../config.ts'
import { filesystemStore } from './filesystem.ts'
import { s3Store } from './s3.ts'
import type { ObjectStore } from './store.ts'

/** The store that the environment chooses. */
export function openStore(config: Config): ObjectStore {
  if (config.s3) return s3Store(config.s3)
  return filesystemStore({ folder: join(config.dataDir, 'objects'), bucket: 'longshore', heldBy: config.dataDir })
}
