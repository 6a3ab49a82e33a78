import { setImmediate as turn } from 'node:timers/promises'
import { describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import type { SftpLooks } from '../../drivers/sftp/sftp.ts'
import { markVanished } from '../../workers/vanished.ts'

const records = Array.from({ length: 100 }, (_, number) => ({
  id: String(number).padStart(3, '0'),
  path: `/${number}`
}))

/** A server that has nothing any more, and answers a turn of the event loop after it was asked. */
function emptyServer() {
  let open = 0
  const most = { atOnce: 0 }
  const lstat = async (path: string) => {
    most.atOnce = Math.max(most.atOnce, ++open)
    await turn()
    open--
    throw new IngestError('SFTP_NO_SUCH_PATH', `${path} is not there`)
  }
  return { sftp: { lstat } as unknown as SftpLooks, most }
}

describe('markVanished', () => {
  test('looks at many files together, and at none that the listing showed', async () => {
    const { sftp, most } = emptyServer()
    const gone: string[] = []
    const ports = {
      unstored: async (after: string) => records.filter(({ id }) => id > after).slice(0, 50),
      vanished: async (ids: string[]) => {
        gone.push(...ids)
      }
    }
    const nothing = { whyIgnored: () => null, report: () => null }
    await markVanished(sftp, ports, { follows: false, hasSeen: (path) => path === '/7', ...nothing })
    expect(gone).toEqual(records.filter(({ path }) => path !== '/7').map(({ id }) => id))
    expect(most.atOnce).toBe(32)
  })
})
