import { Readable } from 'node:stream'
import { describe, expect, test } from '@jest/globals'
import { exactly } from '../../rest/content-actions.ts'

const chunks = (...texts: string[]) => Readable.from(texts.map((text) => Buffer.from(text)))

async function read(stream: Readable): Promise<string> {
  let text = ''
  for await (const chunk of stream) text += chunk
  return text
}

describe('a stream of a promised length', () => {
  test('passes as it is when it has that length', async () => {
    expect(await read(exactly(chunks('ab', 'cde'), 5))).toBe('abcde')
    expect(await read(exactly(chunks(), 0))).toBe('')
  })

  test('fails when it ends early, so that no reader waits for the rest', async () => {
    await expect(read(exactly(chunks('ab'), 3))).rejects.toMatchObject({ type: 'STORE_REJECTED' })
  })

  test('fails with its source', async () => {
    const broken = new Readable({ read: () => {} })
    const reading = read(exactly(broken, 3))
    broken.destroy(new Error('the store went away'))
    await expect(reading).rejects.toThrow('the store went away')
  })

  test('lets go of its source when nobody reads on', async () => {
    const source = new Readable({ read: () => {} })
    const closed = new Promise((done) => source.once('close', done))
    exactly(source, 3).destroy()
    await closed
    expect(source.destroyed).toBe(true)
  })
})
