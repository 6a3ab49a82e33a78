/** What a scan or a look finds is copied over its own connection: the server sees one where it saw two. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Embedded, startEmbedded } from '../support/embedded.ts'
import { writeSource } from '../support/source-files.ts'
import { waitFor } from '../support/wait.ts'

let longshore: Embedded
let id: string

beforeAll(async () => {
  longshore = await startEmbedded({ policy: { interval: 3600 } })
  id = (await longshore.longshore.api.get('/servers')).items[0].id
  // A process that has just started knows no priorities, and looks for them before it copies anything.
  await connectionsOf('first')
})
afterAll(() => longshore?.stop())

const scan = () => longshore.longshore.api.post(`/servers/${id}/scan?wait=true`, {})
const patch = (policy: object) => longshore.longshore.api.request('PATCH', `/servers/${id}`, policy)
const allClosed = () =>
  waitFor(async () => longshore.proxy.open === 0, { what: 'the connections to be closed', timeoutMs: 30_000 })

/** How many connections the server sees from the request for a scan to the message. */
async function connectionsOf(path: string, sizeBytes = 1000): Promise<number> {
  await allClosed()
  const { accepted } = longshore.proxy
  await writeSource(longshore.root, path, sizeBytes)
  await scan()
  await longshore.becomes(path, 'notified')
  return longshore.proxy.accepted - accepted
}

describe('a new file', () => {
  test('is copied over the connection of the scan that found it, small or large, and of the look that found it whole', async () => {
    expect(await connectionsOf('small')).toBe(1)
    expect(await connectionsOf('large', 40 * 1024 * 1024)).toBe(1)
    await patch({ settle: { checks: 2, seconds: 1 } })
    expect(await connectionsOf('settled')).toBe(2)
    await patch({ settle: { checks: 1, seconds: 0 } })
    expect(await longshore.problems()).toEqual([])
  })

  test('is copied where the server may have one connection only', async () => {
    await patch({ maxConnections: 1 })
    await connectionsOf('alone')
    await patch({ maxConnections: 2 })
    expect(await longshore.problems()).toEqual([])
  })

  test('is read no faster than the limit over that connection either', async () => {
    await patch({ bandwidth: 2 * 1024 * 1024 })
    await allClosed()
    const startedAt = performance.now()
    expect(await connectionsOf('limited', 8 * 1024 * 1024)).toBe(1)
    expect(performance.now() - startedAt).toBeGreaterThan(3_500)
    await patch({ bandwidth: null })
  })
})
