/** What every Queue promises, whatever is behind it. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { Message, Queue } from '../../drivers/queue/queue.ts'

export interface OpenedQueue {
  /** Not yet open. */
  queue: Queue
  /** The bodies of the messages so far, in the order of their arrival. */
  received(count: number): Promise<Record<string, unknown>[]>
  close(): Promise<void>
}

/** A message as Longshore sends it; the same `id` is the same event. */
export function message(id: string, subject = '/in/file.csv'): Message {
  const body = {
    specversion: '1.0',
    type: 'longshore.file.uploaded',
    source: '/servers/s1',
    id,
    subject,
    datacontenttype: 'application/json',
    data: { path: subject, size: 3 }
  }
  return { messageId: id, body }
}

/** Runs the suite; `open` gives a fresh queue without messages. */
export function queueContract(name: string, open: () => Promise<OpenedQueue>) {
  describe(`queue contract: ${name}`, () => {
    let opened: OpenedQueue

    beforeEach(async () => {
      opened = await open()
    })
    afterEach(async () => {
      await opened.queue.close()
      await opened.close()
    })

    test('a published message is received unchanged, whatever its path holds', async () => {
      await opened.queue.open()
      const sent = message('e1', '/in/ça "va"\n\u2028\\ 日本.csv')
      await opened.queue.publish(sent)
      expect(await opened.received(1)).toEqual([sent.body])
    })

    test('a message sent again keeps its id', async () => {
      await opened.queue.open()
      await opened.queue.publish(message('e1'))
      await opened.queue.publish(message('e1'))
      expect((await opened.received(2)).map(({ id }) => id)).toEqual(['e1', 'e1'])
    })

    test('500 messages in flight at once all arrive, each once', async () => {
      await opened.queue.open()
      const ids = Array.from({ length: 500 }, (_, index) => `e${index}`)
      await Promise.all(ids.map((id) => opened.queue.publish(message(id))))
      expect((await opened.received(500)).map(({ id }) => id).sort()).toEqual(ids.sort())
    })

    test('a queue that was not opened takes nothing', async () => {
      await expect(opened.queue.publish(message('e1'))).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
      await expect(opened.queue.ping()).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
    })

    test('an open queue answers a ping', async () => {
      await opened.queue.open()
      await expect(opened.queue.ping()).resolves.toBeUndefined()
    })

    test('opening and closing twice does no harm, and a closed queue takes nothing', async () => {
      await Promise.all([opened.queue.open(), opened.queue.open()])
      await opened.queue.close()
      await opened.queue.close()
      await expect(opened.queue.publish(message('e1'))).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
      await expect(opened.queue.ping()).rejects.toMatchObject({ type: 'QUEUE_UNAVAILABLE' })
    })
  })
}
