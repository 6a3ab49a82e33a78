/** The real `transfer` service among stand-ins: servers that hold as many small files as they are told to, and a store that keeps nothing. */
import { setTimeout as delay } from 'node:timers/promises'
import { ServiceBroker } from 'moleculer'
import { loadConfig } from '../../config.ts'
import type { FileRecord } from '../../domain/file-record.ts'
import type { Attributes, ConnectOptions, Sftp } from '../../drivers/sftp/sftp.ts'
import type { ObjectStore, StoredObject } from '../../drivers/store/store.ts'
import { transferService } from '../../services/transfer.service.ts'
import { cleanEnvironment } from './longshore.ts'

export interface TransferWorld {
  broker: ServiceBroker
  /** Files that wait, by server. */
  pending: Map<string, number>
  /** Files that were stored, by server. */
  stored: Map<string, number>
  /** Files that were handed back, by server. */
  handedBack: Map<string, number>
  /** Connections that are open, by server. */
  connected: Set<string>
  /** How long after its claim each file was that was renewed, or whose progress was told, each time. */
  toldAfterMs: number[]
  /** Waits for one file to be stored of this server. */
  storedOf(serverId: string): Promise<void>
  stop(): Promise<void>
}

export interface TransferWorldOptions {
  /** How long one small file takes. */
  fileMs: number
  /** How long a connection takes, by server. */
  connectMs?: (serverId: string) => number
}

const mtimeSeconds = 1_700_000_000
const sizeBytes = 10

export async function transferWorld(options: TransferWorldOptions): Promise<TransferWorld> {
  const pending = new Map<string, number>()
  const stored = new Map<string, number>()
  const handedBack = new Map<string, number>()
  const connected = new Set<string>()
  const toldAfterMs: number[] = []
  const claimedAt = new Map<string, number>()
  const told = (id: string) => toldAfterMs.push(performance.now() - claimedAt.get(id)!)
  const waiters = new Map<string, () => void>()
  const config = loadConfig({ ...cleanEnvironment, DATA_DIR: '/nonexistent', ENCRYPTION_KEY: `${'A'.repeat(43)}=` })
  const broker = new ServiceBroker({ logger: false, nodeID: 'worker' })
  const serverOf = (id: string) => id.slice(0, id.lastIndexOf('#'))
  let count = 0

  broker.createService({
    name: 'servers',
    actions: {
      takeSlot: ({ params: { id } }) => ({
        slotId: `slot-${id}`,
        order: { name: id, target: { id, host: id, port: 22, username: 'u', secrets: {} }, policy },
        bytesPerSecond: null
      }),
      renewSlots: () => ({ lost: [], wanted: [], shares: {} }),
      releaseSlot: () => {},
      priorities: () => ({}),
      failed: () => {}
    }
  })
  broker.createService({
    name: 'files',
    actions: {
      work({ params: { after, limit } }) {
        const busy = [...pending].filter(([id, files]) => id > after && files > 0).map(([id]) => id)
        return { urgent: [], others: busy.sort().slice(0, limit) }
      },
      claim({ params: { serverId, limit } }) {
        const there = pending.get(serverId) ?? 0
        const taken = Math.min(there, limit)
        pending.set(serverId, there - taken)
        const claimed = Array.from({ length: taken }, () => record(serverId, count++))
        for (const { _id } of claimed) claimedAt.set(_id, performance.now())
        return claimed
      },
      finish({ params: { id } }) {
        handedBack.set(serverOf(id), (handedBack.get(serverOf(id)) ?? 0) + 1)
      },
      finishEach({ params: { ends } }) {
        for (const { id } of ends) {
          const serverId = serverOf(id)
          stored.set(serverId, (stored.get(serverId) ?? 0) + 1)
          waiters.get(serverId)?.()
        }
      },
      renew({ params: { holds } }) {
        for (const { id } of holds) told(id)
        return { lost: [] }
      }
    }
  })
  broker.createService({
    name: 'listener',
    events: {
      'file.progress'(ctx: { params: { id: string } }) {
        told(ctx.params.id)
      }
    }
  })
  broker.createService({
    mixins: [transferService(config)],
    name: 'transfer',
    methods: {
      openStore: () => nullStore(),
      async openSftp(target: { host: string }, { signal }: ConnectOptions) {
        await delay(options.connectMs?.(target.host) ?? 20, undefined, { signal })
        connected.add(target.host)
        return fakeConnection(options.fileMs, () => connected.delete(target.host))
      }
    }
  })
  await broker.start()
  return {
    broker,
    pending,
    stored,
    handedBack,
    connected,
    toldAfterMs,
    storedOf: (serverId) => new Promise((resolve) => waiters.set(serverId, resolve)),
    stop: () => broker.stop()
  }
}

const policy = { checksum: 'crc32', keyTemplate: '{server}/{path}' }

function record(serverId: string, number: number): FileRecord {
  return {
    _id: `${serverId}#${number}`,
    serverId,
    path: `/${number}`,
    size: sizeBytes,
    mtime: mtimeSeconds * 1000,
    version: 1,
    epoch: 1,
    reservedKey: `${serverId}/${number}`,
    upload: null
  } as FileRecord
}

const attributes: Attributes = { kind: 'file', sizeBytes, mtimeSeconds, mode: 0o100644, uid: 0, gid: 0 }

function fakeConnection(fileMs: number, closed: () => void): Sftp {
  const file = {
    stat: async () => attributes,
    readSmall: async () => {
      await delay(fileMs)
      return Buffer.alloc(sizeBytes)
    },
    close: async () => {}
  }
  const sftp: Partial<Sftp> = {
    latencyMs: 1,
    closed: new AbortController().signal,
    maxChannels: 8,
    readBytes: 32_768,
    stat: async () => attributes,
    open: async () => file as never,
    limitTo: () => {},
    close: async () => closed()
  }
  return sftp as Sftp
}

function nullStore(): ObjectStore {
  const store: Partial<ObjectStore> = {
    bucket: 'b',
    limits: { minPartBytes: 5, maxPartBytes: 2 ** 40, maxParts: 10_000, maxObjectBytes: 2 ** 42 },
    head: async () => null,
    put: async (key, body, { crc32, metadata }): Promise<StoredObject> => {
      return { key, sizeBytes: body.length, etag: 'e', crc32, metadata }
    },
    url: (key) => key,
    close: async () => {}
  }
  return store as ObjectStore
}
