/** The same names delivered again and again, each time deleted after its upload, by two of each on real backends. */
import { createHash } from 'node:crypto'
import { mkdir, readdir, rename, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, type Longshore, waitFor } from '../support/longshore.ts'
import type { Json } from '../support/rest.ts'
import { startWorld, type World } from '../support/world.ts'

const NAMES = Array.from({ length: 12 }, (_, i) => `file ${i}.csv`)
const ROUNDS = 3

let world: World
let backends: Backends
let longshore: Longshore
let consumer: Consumer

beforeAll(async () => {
  world = await startWorld({ counts: { scanner: 2, transfer: 2, notifier: 2, files: 2 } })
  ;({ backends, longshore, consumer } = world)
})
afterAll(() => world?.stop())

test('each delivery is one version, one object and one message, though no two of a name differ in size or time', async () => {
  const inbox = join(backends.root, 'inbox')
  await mkdir(inbox)
  const server = { roots: [inbox], interval: 1, settle: { checks: 1, seconds: 0 }, maxConnections: 4 }
  await longshore.api.post('/servers', backends.server({ ...server, afterUpload: 'delete', order: 'name' }))
  const explain = async () => {
    const files = await longshore.api.files()
    const lines = files.map((one) => `${one.path} ${one.version} ${one.status} ${JSON.stringify(one.afterUpload)}`)
    return `${lines.join('\n')}\n${longshore.output()}`
  }
  const content = (name: string, round: number) => `${name}, delivery ${round}`

  for (let round = 1; round <= ROUNDS; round++) {
    for (const name of NAMES) {
      const uploading = join(inbox, `${name}.part`)
      await writeFile(uploading, content(name, round))
      await utimes(uploading, 1_700_000_000, 1_700_000_000)
      await rename(uploading, join(inbox, name))
    }
    await waitFor(async () => (await readdir(inbox)).length === 0, {
      what: `round ${round}`,
      explain
    })
  }
  const cleared = (file: Json) => file.status === 'notified' && file.afterUpload?.status === 'done'
  const files = await waitFor(
    async () => {
      const all = await longshore.api.files()
      return all.length === NAMES.length * ROUNDS && all.every(cleared) ? all : null
    },
    { what: 'every delivery to be done with', explain }
  )
  await waitFor(() => new Set(consumer.messages.map(({ messageId }) => messageId)).size === files.length, {
    what: 'all messages'
  })
  expect(new Set(files.map(({ object }) => object.key)).size).toBe(files.length)
  for (const file of files) {
    const answer = await fetch(`http://127.0.0.1:${longshore.port}/api/v1/files/${file.id}/content`, {
      headers: { authorization: `Bearer ${longshore.keys.viewer}` }
    })
    const hash = (of: string) => createHash('sha256').update(of).digest('hex')
    expect(hash(await answer.text())).toBe(hash(content(file.filename, file.version)))
  }
})
