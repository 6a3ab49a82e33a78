import { readFileSync } from 'node:fs'
import { describe, expect, test } from '@jest/globals'
import { knownVariables } from '../../config.ts'
import { configurationPage, withTable } from '../../scripts/configuration-table.ts'

const page = readFileSync(configurationPage, 'utf8')

describe('docs/configuration.md', () => {
  test('has the table that `npm run docs` writes', () => {
    expect(withTable(page)).toBe(page)
  })

  test('names every variable that the program reads', () => {
    expect(knownVariables.filter((name) => !page.includes(`\`${name}\``))).toEqual([])
  })

  test('a table of another day is replaced', () => {
    const stale = page.replace('| `API_PORT` |', '| `API_DOOR` |')
    expect(stale).not.toBe(page)
    expect(withTable(stale)).toBe(page)
  })

  test('a page without the markers is refused', () => {
    expect(() => withTable('# Configuration\n')).toThrow('docs/configuration.md should hold')
  })
})
