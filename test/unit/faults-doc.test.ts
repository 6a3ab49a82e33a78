import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, test } from '@jest/globals'

const root = resolve(import.meta.dirname, '../..')
const text = readFileSync(join(root, 'docs/faults.md'), 'utf8')
/** A file, and the titles that follow it. */
const named = [...text.matchAll(/`([\w/-]+\.(?:test|contract|cases)\.ts)` ("[^"]+"(?:, "[^"]+")*)/g)].flatMap(
  ([, file, titles]) => [...titles!.matchAll(/"([^"]+)"/g)].map(([, title]) => [file!, title!])
)

describe('docs/faults.md', () => {
  test('has a row for each of the 51 faults', () => {
    const numbers = [...text.matchAll(/^\| ([\d, ]+) \|/gm)].flatMap(([, cell]) => cell!.split(',').map(Number))
    expect([...new Set(numbers)].sort((a, b) => a - b)).toEqual(Array.from({ length: 51 }, (_, index) => index + 1))
  })

  test.each(named)('names a test that there is: %s "%s"', (file, title) => {
    const source = readFileSync(join(root, 'test', file), 'utf8')
    const isThere = [`'${title}'`, `"${title}"`, `\`${title}\``].some((quoted) => source.includes(quoted))
    expect([file, title, isThere]).toEqual([file, title, true])
  })

  test('names no file of tests that there is not', () => {
    const files = [...text.matchAll(/`((?:unit|contract|integration|chaos|simulation)\/[\w/-]+\.ts)`/g)]
    for (const [, file] of files) expect([file, existsSync(join(root, 'test', file!))]).toEqual([file, true])
    expect(named.length).toBeGreaterThan(40)
  })
})
