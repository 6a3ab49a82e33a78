import { appendFile, readFile, stat, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Embedded, startEmbedded } from '../support/embedded.ts'
import { waitFor } from '../support/longshore.ts'
import { type Random, randomOf } from '../support/random.ts'
import { writeSource } from '../support/source-files.ts'

const KiB = 1024
const MiB = 1024 * KiB
const KILLS = 4
/** At this kill the disk keeps less than what was written, too. */
const TORN_AT = 2
const FILES_A_ROUND = 26
const NEWLINE = 10
const BEGUN_LINE = '{"specversion":"1.0","type":"longshore.file.uploaded","source":'

/** Small files, and one that is cut into parts. */
async function fill({ root }: Embedded, round: number): Promise<void> {
  for (let index = 1; index < FILES_A_ROUND; index++) await writeSource(root, `${round}/${index}`, index * 1009)
  await writeSource(root, `${round}/large`, 24 * MiB + round)
}

/**
 * Its process is killed over and over: when so many bytes more have come from the server, which is anywhere between
 * the first handshake and the middle of a large file, or before it has begun at all.
 */
async function killOften(place: Embedded, random: Random): Promise<void> {
  const { longshore, proxy } = place
  for (let kill = 0; kill < KILLS; kill++) {
    await fill(place, kill)
    const from = proxy.received
    const bytes = [random.between(64 * KiB, 20 * MiB), random.between(1, 64 * KiB), 0][kill % 3]!
    await waitFor(() => proxy.received >= from + bytes, {
      what: `${bytes} bytes to come`,
      everyMs: 1,
      explain: longshore.output
    })
    await longshore.processes[0]!.stop('SIGKILL')
    expect(await longshore.processes[0]!.exited).toEqual({ code: null, signal: 'SIGKILL' })
    const said = kill === TORN_AT ? await tear(longshore.dataDir, random) : []
    await longshore.restart()
    for (const sentence of said) expect(longshore.output()).toContain(sentence)
  }
}

/**
 * Cuts the database within any line of it: what is lost is found again by listing, and its object in the store. The
 * journal ends in the beginning of a message. Answers what the next start must say of both.
 */
async function tear(dataDir: string, random: Random): Promise<string[]> {
  const files = await readFile(join(dataDir, 'files.db'))
  expect(files.length).toBeGreaterThan(FILES_A_ROUND * 100)
  const at = random.between(1, files.length - 1)
  // At the end of a line nothing would be torn.
  const end = files[at - 1] === NEWLINE ? at - 1 : at
  await truncate(join(dataDir, 'files.db'), end)
  const tornBytes = end - (files.subarray(0, end).lastIndexOf(NEWLINE) + 1)

  const path = join(dataDir, 'notifications.ndjson')
  await appendFile(path, BEGUN_LINE.slice(0, random.between(1, BEGUN_LINE.length)))
  return [
    `files.db ended in half a line (${tornBytes} bytes), which was cut: what it was to record was never confirmed. The next`,
    `${path} ends in half a line: its message was not confirmed and comes again`
  ]
}

async function settle({ longshore }: Embedded): Promise<void> {
  const { api } = longshore
  await waitFor(async () => (await api.get('/stats')).files.notified.count === KILLS * FILES_A_ROUND, {
    what: 'every file to be notified',
    explain: async () => {
      const open = (await api.files()).find(({ status }) => status !== 'notified')
      return `${JSON.stringify(open && (await api.get(`/files/${open.id}`)))}\n${longshore.output()}`
    }
  })
}

describe('the embedded process, killed over and over and its database torn', () => {
  let onDisk: Embedded
  let onMinio: Embedded

  beforeAll(async () => {
    onDisk = await startEmbedded()
    onMinio = await startEmbedded({ store: 'minio' })
    const both = [onDisk, onMinio].map((place, seed) => killOften(place, randomOf(seed)).then(() => settle(place)))
    await Promise.all(both)
  })
  afterAll(async () => {
    await onDisk?.stop()
    await onMinio?.stop()
  })

  test.each([
    ['plain files', () => onDisk],
    ['MinIO', () => onMinio]
  ])(
    'with its objects in %s, loses nothing: one record, one object, one id of a message for each file',
    async (_store, of) => {
      expect(await of().problems()).toEqual([])
    }
  )
})

describe('the embedded process, killed while it copies over the only connection that its server allows', () => {
  let place: Embedded

  beforeAll(async () => {
    place = await startEmbedded({ policy: { maxConnections: 1 } })
  })
  afterAll(() => place?.stop())

  test('goes on as soon as it runs again, without waiting for its own leases, and says what it frees', async () => {
    const { longshore, proxy, root, becomes } = place
    proxy.throttle(4 * MiB)
    await writeSource(root, 'large', 24 * MiB)
    await waitFor(() => proxy.received > 2 * MiB, { timeoutMs: 60_000, what: 'the copy to be under way', everyMs: 5 })
    await longshore.processes[0]!.stop('SIGKILL')
    await longshore.processes[0]!.exited
    proxy.throttle(null)
    await longshore.restart()
    // A lease and its margin are 35 s.
    await becomes('large', 'notified', 20_000)
    expect(longshore.output()).toMatch(/free at once: connection: 1/)
    expect(longshore.output()).toMatch(/free at once: copy: 1/)
    expect(longshore.output().match(/free at once/g)).toHaveLength(2)
    await longshore.restart()
    await becomes('large', 'notified')
    expect(longshore.output().match(/free at once/g)).toHaveLength(2)
    expect(await place.problems()).toEqual([])
  })

  test('whose list of servers is torn says where to look, and goes on with what is whole', async () => {
    const { longshore, root, becomes } = place
    const path = join(longshore.dataDir, 'servers.db')
    // Its scans are written there once a second.
    const isWrittenAgain = async () => (await readFile(path, 'utf8')).split('"name":"partner"').length > 3
    await waitFor(isWrittenAgain, { what: 'the server to be written again' })
    await longshore.processes[0]!.stop('SIGKILL')
    const { size } = await stat(path)
    await truncate(path, size - 10)
    await longshore.restart()
    expect(longshore.output()).toMatch(/servers\.db ended in half a line .* Look at the servers: one may be missing/)
    await writeSource(root, 'after', 1000)
    await becomes('after', 'notified')
    expect(await place.problems()).toEqual([])
  })
})
