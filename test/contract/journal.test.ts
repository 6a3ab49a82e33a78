import { appendFile, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { journalQueue } from '../../drivers/queue/journal.ts'
import type { Queue } from '../../drivers/queue/queue.ts'
import { temporaryFolder } from '../support/process.ts'
import { message, queueContract } from './queue.contract.ts'

const linesOf = async (path: string) => (await readFile(path, 'utf8')).split('\n').slice(0, -1)

queueContract('journal', async () => {
  const folder = await temporaryFolder('journal')
  const path = join(folder.path, 'data/notifications.ndjson')
  return {
    queue: journalQueue({ path }),
    received: async () => (await linesOf(path)).map((line) => JSON.parse(line)),
    close: folder.remove
  }
})

describe('journal', () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let path: string
  let queue: Queue

  beforeEach(async () => {
    folder = await temporaryFolder('journal')
    path = join(folder.path, 'data/notifications.ndjson')
    await mkdir(dirname(path))
    queue = journalQueue({ path })
  })
  afterEach(async () => {
    await queue.close()
    await folder.remove()
  })

  test('is readable by its owner only', async () => {
    await queue.open()
    expect((await stat(path)).mode & 0o777).toBe(0o600)
  })

  test('torn at any byte, loses the torn line alone, says so once, and swallows no other', async () => {
    const [before, torn] = ['{"id":"e0","data":{"path":"/é"}}', '{"id":"torn","data":{"path":"/日本"}}']
    const bytes = Buffer.from(torn)
    for (let kept = 0; kept <= bytes.length; kept++) {
      await writeFile(path, Buffer.concat([Buffer.from(`${before}\n`), bytes.subarray(0, kept)]))
      const said: string[] = []
      const opened = journalQueue({ path, log: { warn: (sentence) => said.push(sentence) } })
      await opened.open()
      await opened.publish(message('e1'))
      await opened.publish(message('e2'))
      await opened.close()
      // What is left of it stands alone; cut within a letter, that letter cannot be read.
      const rest = kept === 0 ? [] : [bytes.subarray(0, kept).toString()]
      const lines = await linesOf(path)
      expect(lines.slice(0, -2)).toEqual([before, ...rest])
      expect(lines.slice(-2).map((line) => JSON.parse(line).id)).toEqual(['e1', 'e2'])
      const sentence = `${path} ends in half a line: its message was not confirmed and comes again`
      expect(said).toEqual(kept === 0 ? [] : [sentence])
    }
  })

  test('a line torn before this process started to write is ended even between two opens', async () => {
    await queue.open()
    await queue.publish(message('e1'))
    await queue.close()
    await appendFile(path, '{"id":"to')
    await queue.open()
    await queue.publish(message('e2'))
    expect(JSON.parse((await linesOf(path)).at(-1)!)).toMatchObject({ id: 'e2' })
  })

  test('a message after a rotation is in the new file', async () => {
    await queue.open()
    await queue.publish(message('e1'))
    await rename(path, `${path}.1`)
    await queue.publish(message('e2'))
    expect(JSON.parse((await linesOf(path))[0]!)).toMatchObject({ id: 'e2' })
    expect(await linesOf(`${path}.1`)).toHaveLength(1)
  })

  test('a file that cannot be written rejects with QUEUE_UNAVAILABLE, and works once it can', async () => {
    await rm(dirname(path), { recursive: true })
    await writeFile(dirname(path), 'a file where the folder should be')
    await expect(queue.open()).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
    await expect(queue.publish(message('e1'))).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
    await rm(dirname(path))
    await queue.publish(message('e1'))
    expect(await linesOf(path)).toHaveLength(1)
  })

  test('a full disk rejects every message of the batch with QUEUE_UNAVAILABLE', async () => {
    const full = journalQueue({ path: '/dev/full' })
    const results = await full
      .open()
      .then(() => Promise.allSettled([full.publish(message('e1')), full.publish(message('e2'))]))
    await full.close()
    for (const result of results) expect(result).toMatchObject({ reason: { type: 'QUEUE_UNAVAILABLE' } })
  })
})
