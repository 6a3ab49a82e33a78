import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** How `npm start` runs Node, so that what is measured and tested is what users run. */
export const nodeOptions: string[] = optionsOf('start')

function optionsOf(script: string): string[] {
  const { scripts } = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8'))
  return scripts[script].split(' ').filter((word: string) => word.startsWith('--'))
}
