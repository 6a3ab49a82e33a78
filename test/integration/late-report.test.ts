import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { ServiceBroker } from 'moleculer'
import { loadConfig } from '../../config.ts'
import { parseNewServer } from '../../domain/server-input.ts'
import { filesService } from '../../services/files.service.ts'
import { serversService } from '../../services/servers.service.ts'
import { cleanEnvironment } from '../support/longshore.ts'
import { temporaryFolder } from '../support/process.ts'

let folder: { path: string; remove(): Promise<void> }
let broker: ServiceBroker
beforeAll(async () => {
  folder = await temporaryFolder('late')
  const config = loadConfig({ ...cleanEnvironment, DATA_DIR: folder.path })
  broker = new ServiceBroker({ logger: false })
  broker.createService(serversService(config))
  broker.createService(filesService(config))
  await broker.start()
})
afterAll(async () => {
  await broker.stop()
  await folder.remove()
})

test('what a late scan reports of a removed server is skipped, and of another one it waits to be copied', async () => {
  const { input } = parseNewServer({ name: 'gone', host: 'h', username: 'u', password: 'p' })
  const report = (serverId: string, paths: string[]) =>
    broker.call('files.register', {
      rules: { serverId, serverName: serverId, settle: { checks: 1, seconds: 0 }, onChange: 'ignore', scanEpoch: 1 },
      sightings: paths.map((path) => ({ path, size: 1, mtime: 1000, skip: null }))
    })
  for (const id of ['gone', 'there']) {
    await broker.call('servers.create', { id, input: { ...input, name: id }, secrets: {} })
    await report(id, ['/before'])
  }
  await broker.call('servers.remove', { id: 'gone' })
  for (const id of ['gone', 'there']) await report(id, ['/before', '/late'])
  const { items }: { items: { serverId: string; path: string; status: string; reason: string }[] } =
    await broker.call('files.list')
  const states = items.map(({ serverId, path, status, reason }) => `${serverId}${path} ${status} ${reason}`).sort()
  expect(states).toEqual([
    'gone/before skipped server deleted',
    'gone/late skipped server deleted',
    'there/before pending null',
    'there/late pending null'
  ])
})
