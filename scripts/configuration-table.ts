/** Writes the table of environment variables into docs/configuration.md, from the rows that the program itself checks. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describeConfig } from '../config.ts'

export const configurationPage = join(import.meta.dirname, '../docs/configuration.md')

const begin = '<!-- table: npm run docs -->'
const end = '<!-- /table -->'

/** The page with its table replaced; throws where the page has lost its markers. */
export function withTable(page: string): string {
  const from = page.indexOf(begin)
  const to = page.indexOf(end)
  if (from < 0 || to < from) throw new Error(`docs/configuration.md should hold ${begin} and, after it, ${end}`)
  return `${page.slice(0, from + begin.length)}\n\n${table()}\n\n${page.slice(to)}`
}

function table(): string {
  const rows = describeConfig().map(({ name, meaning, default: initial, secret }) => {
    const names = secret ? `\`${name}\`, \`${name}_FILE\`` : `\`${name}\``
    return `| ${names} | ${cell(meaning)} | ${initial === null ? '' : `\`${initial}\``} |`
  })
  return ['| variable | meaning | default |', '| --- | --- | --- |', ...rows].join('\n')
}

/** A bar would end the cell. */
function cell(text: string): string {
  return text.replaceAll('|', '\\|')
}

if (import.meta.main) writeFileSync(configurationPage, withTable(readFileSync(configurationPage, 'utf8')))
