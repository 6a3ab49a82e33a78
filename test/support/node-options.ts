import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const root = join(import.meta.dirname, '../..')
const start: string = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).scripts.start
const cacheFolder = /NODE_COMPILE_CACHE=(\S+)/.exec(start)?.[1]
if (!cacheFolder) throw new Error('npm start keeps no compiled code')

/** How `npm start` runs Node, so that what is measured and tested is what users run: its options, and its environment. */
export const nodeOptions: string[] = start.split(' ').filter((word) => word.startsWith('--'))
export const nodeEnvironment = { NODE_COMPILE_CACHE: join(root, cacheFolder) }
