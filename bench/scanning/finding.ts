/** What a claim about scanning was found to be, and the table of it. */
export interface Finding {
  what: string
  value: number
  unit: string
  atMost?: number
  /** Beside which other value the goal stands, in words. */
  note?: string
}

export interface ScanCase {
  name: string
  title: string
  run(options: ScanOptions): Promise<Finding[]>
}

export interface ScanOptions {
  /** A tenth of everything, for a quick look and for CI: goals are not judged by it. */
  isSmall: boolean
  /** Seconds that the farm is watched. */
  seconds: number
}

export function isMet({ value, atMost }: Finding): boolean {
  return atMost === undefined || value <= atMost
}

/** In Markdown, to be pasted into a document. */
export function findingsTable(title: string, findings: Finding[]): string {
  const lines = [`**${title}**`, '', '| measured | value | goal | met |', '| --- | --- | --- | --- |']
  for (const finding of findings) {
    const { what, value, unit, atMost, note } = finding
    const shown = (number: number) => (Math.abs(number) < 10 ? number.toFixed(2) : number.toFixed(0))
    const goal = atMost === undefined ? '' : `<= ${atMost} ${unit}`
    const met = atMost === undefined ? '' : isMet(finding) ? 'yes' : 'NO'
    lines.push(`| ${what}${note ? ` (${note})` : ''} | ${shown(value)} ${unit} | ${goal} | ${met} |`)
  }
  return lines.join('\n')
}
