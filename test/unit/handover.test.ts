import { describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { Sftp } from '../../drivers/sftp/sftp.ts'
import type { ServerTarget } from '../../workers/connect.ts'
import { Handover } from '../../workers/handover.ts'

const target: ServerTarget = {
  id: 'one',
  host: 'h',
  port: 22,
  username: 'u',
  hostKey: 'SHA256:k',
  algorithms: null,
  secrets: {}
}

function connection() {
  const closed = new AbortController()
  let holders = 1
  const sftp: Partial<Sftp> = {
    hostKey: 'SHA256:k',
    closed: closed.signal,
    retain: () => {
      holders++
    }
  }
  const lose = () => closed.abort(new IngestError('SFTP_CONNECTION_LOST', 'lost'))
  return { sftp: sftp as Sftp, lose, holders: () => holders }
}

/** Whether it has ended once everything that could move has moved. */
async function hasEnded(promise: Promise<void>): Promise<boolean> {
  const later = new Promise<boolean>((resolve) => setImmediate(() => resolve(false)))
  return Promise.race([promise.then(() => true), later])
}

describe('Handover', () => {
  test('hands on a connection once more held, also where its key was pinned only by it', () => {
    for (const hostKey of ['SHA256:k', null]) {
      const handover = new Handover()
      const { sftp, holders } = connection()
      handover.offer({ ...target, hostKey } as ServerTarget, sftp)
      expect(handover.reserve('another')).toBeNull()
      expect(handover.reserve('one')!.take(target)).toBe(sftp)
      expect(holders()).toBe(2)
    }
  })

  test.each([
    ['to another address', { host: 'other' }],
    ['with another secret', { secrets: { password: { v: 1 } as never } }],
    ['with other algorithms', { algorithms: { cipher: ['aes128-cbc'] } as never }],
    ['whose server has another key by now', { hostKey: 'SHA256:new' }],
    ['whose key was taken back', { hostKey: null as never }]
  ])('keeps one that is wanted %s', (_what, change) => {
    const handover = new Handover()
    const { sftp, holders } = connection()
    handover.offer(target, sftp)
    expect(handover.reserve('one')!.take({ ...target, ...change })).toBeNull()
    expect(holders()).toBe(1)
  })

  test('keeps one that was lost', () => {
    const handover = new Handover()
    const { sftp, lose, holders } = connection()
    handover.offer(target, sftp)
    const reservation = handover.reserve('one')!
    lose()
    expect([reservation.take(target), holders()]).toEqual([null, 1])
  })

  test('an offer that is taken back waits for those who reserved it, and nobody reserves it any more', async () => {
    const handover = new Handover()
    const { sftp, holders } = connection()
    const takeBack = handover.offer(target, sftp)
    const [taker, dropper] = [handover.reserve('one')!, handover.reserve('one')!]
    const ended = takeBack()
    expect(handover.reserve('one')).toBeNull()
    dropper.drop()
    expect(await hasEnded(ended)).toBe(false)
    expect(taker.take(target)).toBe(sftp)
    expect(await hasEnded(ended)).toBe(true)
    expect([taker.take(target), dropper.take(target), holders()]).toEqual([null, null, 2])
  })

  test('of two offers of one server the later stands until it is taken back itself', async () => {
    const handover = new Handover()
    const [first, second] = [connection(), connection()]
    const takeFirstBack = handover.offer(target, first.sftp)
    const takeSecondBack = handover.offer(target, second.sftp)
    await takeFirstBack()
    expect(handover.reserve('one')!.take(target)).toBe(second.sftp)
    await takeSecondBack()
    expect(handover.reserve('one')).toBeNull()
  })
})
