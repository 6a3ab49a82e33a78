/**
 * What a crash or a failing disk left in a file of lines, one JSON document each. A line that cannot be read is lost;
 * that is said, and the rest goes on: a record that is missing, or older than it was, is brought up to date by the next
 * listing and by what the store has.
 */
import { createReadStream } from 'node:fs'
import { appendFile, type FileHandle, open, rename, rm } from 'node:fs/promises'
import { basename } from 'node:path'

const NEWLINE = 10
const PORTION_BYTES = 64 * 1024
const NAMED_IDS = 5

/**
 * Cuts half a line at the end, which a killed process leaves and which was never confirmed: the next append would be
 * glued to it. Answers what was cut, as a sentence; null when there was nothing. A file that is not there is whole.
 */
export async function cutTornLine(path: string): Promise<string | null> {
  const file = await open(path, 'r+').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (!file) return null
  try {
    await file.chmod(0o600)
    const { size } = await file.stat()
    const end = await endOfLines(file, size)
    if (end === size) return null
    await file.truncate(end)
    return `${basename(path)} ended in half a line (${size - end} bytes), which was cut: what it was to record was never confirmed`
  } finally {
    await file.close()
  }
}

/** Where the last whole line ends. */
async function endOfLines(file: FileHandle, size: number): Promise<number> {
  const portion = Buffer.alloc(PORTION_BYTES)
  for (let end = size; end > 0; ) {
    const start = Math.max(0, end - portion.length)
    const { bytesRead } = await file.read(portion, 0, end - start, start)
    const last = portion.subarray(0, bytesRead).lastIndexOf(NEWLINE)
    if (last >= 0) return start + last + 1
    end = start
  }
  return 0
}

/**
 * Moves lines that cannot be read to `<path>.damaged`, for an operator to look at, and keeps the others in their order.
 * Answers what was moved, as a sentence; null when every line can be read.
 */
export async function moveDamagedLines(path: string): Promise<string | null> {
  const damaged: Buffer[] = []
  const mended = await open(`${path}.mending`, 'w', 0o600)
  try {
    for await (const line of linesOf(path)) {
      if (isDocument(line)) await mended.write(Buffer.concat([line, Buffer.of(NEWLINE)]))
      else damaged.push(line, Buffer.of(NEWLINE))
    }
    await mended.sync()
  } finally {
    await mended.close()
  }
  if (damaged.length === 0) {
    await rm(`${path}.mending`)
    return null
  }
  await appendFile(`${path}.damaged`, Buffer.concat(damaged), { mode: 0o600, flush: true })
  await rename(`${path}.mending`, path)
  const count = damaged.length / 2
  const what = count === 1 ? '1 line that could not be read was' : `${count} lines that could not be read were`
  return `${basename(path)} is damaged: ${what} moved to ${basename(path)}.damaged${namesOf(damaged)}`
}

function namesOf(lines: Buffer[]): string {
  const ids = lines.flatMap((line) => /"_id":"([\w-]{1,64})"/.exec(line.toString('latin1'))?.[1] ?? [])
  const unique = [...new Set(ids)]
  if (unique.length === 0) return ''
  return `, of the records ${unique.slice(0, NAMED_IDS).join(', ')}${unique.length > NAMED_IDS ? ' and others' : ''}`
}

function isDocument(line: Buffer): boolean {
  try {
    const value: unknown = JSON.parse(line.toString('utf8'))
    return typeof value === 'object' && value !== null && !Array.isArray(value)
  } catch {
    return false
  }
}

/** Without their ends; empty ones are left out, as NeDB does. */
async function* linesOf(path: string): AsyncGenerator<Buffer> {
  let rest = Buffer.alloc(0)
  for await (const chunk of createReadStream(path)) {
    let bytes = Buffer.concat([rest, chunk as Buffer])
    for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE)) {
      if (at > 0) yield bytes.subarray(0, at)
      bytes = bytes.subarray(at + 1)
    }
    rest = bytes
  }
  if (rest.length > 0) yield rest
}
