import { afterEach, describe, expect, test } from '@jest/globals'
import { ServiceBroker } from 'moleculer'
import { stopNode } from '../../node.ts'
import { waitFor } from '../support/wait.ts'

describe('stopNode', () => {
  let letGo = () => {}
  afterEach(() => letGo())

  /** A node of services that do nothing but say what happens to them. */
  async function start(names: string[]) {
    const told: string[] = []
    const broker = new ServiceBroker({ logger: false, tracking: { enabled: true, shutdownTimeout: 60_000 } })
    const answered = new Promise<void>((resolve) => {
      letGo = resolve
    })
    for (const name of names) {
      broker.createService({
        name,
        actions: { ask: () => answered },
        events: { 'node.leaving': () => void told.push(`${name} leaves`) },
        stopped: () => void told.push(`${name} stopped`)
      })
    }
    await broker.start()
    return { broker, told }
  }

  test('tells every service that the node leaves before it waits for the calls that one is answering', async () => {
    const { broker, told } = await start(['transfer', 'files'])
    const asked = broker.call('transfer.ask')
    const stopped = stopNode(broker)
    await waitFor(() => told.length === 2, { what: 'the services to be told' })
    expect(told.toSorted()).toEqual(['files leaves', 'transfer leaves'])
    letGo()
    await asked
    await stopped
    expect(told.slice(2)).toEqual(['transfer stopped', 'files stopped'])
  })

  test('lets no worker wait for another one, and the owners of the data stop after all of them', async () => {
    const { broker, told } = await start(['servers', 'files', 'storage', 'notifier', 'transfer', 'scanner', 'api'])
    const asked = broker.call('api.ask')
    const stopped = stopNode(broker)
    await waitFor(() => told.includes('transfer stopped') && told.includes('scanner stopped'), { what: 'the workers' })
    const ended = told.filter((what) => what.endsWith('stopped'))
    expect(ended.toSorted()).toEqual(['scanner stopped', 'transfer stopped'])
    letGo()
    await asked
    await stopped
    const order = told.filter((what) => what.endsWith('stopped')).slice(2)
    expect(order.slice(0, 3)).toEqual(['api stopped', 'notifier stopped', 'storage stopped'])
    expect(order.slice(3).toSorted()).toEqual(['files stopped', 'servers stopped'])
  })
})
