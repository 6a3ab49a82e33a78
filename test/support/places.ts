/** Registered servers behind a proxy each, with one file: what came from the server for this file can be counted. */
import { join } from 'node:path'
import type { ObjectStore } from '../../drivers/store/store.ts'
import type { Backends, Longshore } from './longshore.ts'
import { type FaultyProxy, startProxy } from './proxy.ts'
import type { Json } from './rest.ts'
import { writeSource } from './source-files.ts'
import { PATIENCE_MS, waitFor } from './wait.ts'

export interface Place {
  proxy: FaultyProxy
  /** Where its object goes. */
  key: string
  sizeBytes: number
  /** The record with its history; undefined before it is registered. */
  file(): Promise<Json>
  statuses(): Promise<string[]>
  notified(timeoutMs?: number): Promise<void>
  /** Waits until so many bytes came from the server. */
  received(bytes: number): Promise<void>
}

export interface Places {
  /** Registered at once, looked at once. `bytesPerSecond`: of each connection, from the beginning. */
  add(name: string, sizeBytes: number, bytesPerSecond?: number | null): Promise<Place>
  close(): Promise<void>
}

export function placesOf(backends: Backends, longshore: Longshore): Places {
  const proxies: FaultyProxy[] = []
  const explain = () => longshore.output()
  return {
    async add(name, sizeBytes, bytesPerSecond = null) {
      const root = join(backends.root, name)
      await writeSource(root, 'file', sizeBytes)
      const proxy = await startProxy({ target: { host: '127.0.0.1', port: backends.sshd.port } })
      proxies.push(proxy)
      proxy.throttle(bytesPerSecond)
      const policy = { roots: [root], interval: 3600, settle: { checks: 1, seconds: 0 } }
      await longshore.api.post('/servers', backends.server({ name, port: proxy.port, ...policy }))
      const file = async () => {
        const [found] = await longshore.api.files(`&path=${encodeURIComponent(`${root}/file`)}`)
        return found && longshore.api.get(`/files/${found.id}`)
      }
      return {
        ...{ proxy, key: `${name}${root}/file`, sizeBytes, file },
        statuses: async () => (await file()).history.map(({ status }: Json) => status),
        async notified(timeoutMs = PATIENCE_MS) {
          await waitFor(async () => (await file())?.status === 'notified', {
            timeoutMs,
            what: `${name} to be notified`,
            explain: async () => `${JSON.stringify(await file())}\n${longshore.output()}`
          })
        },
        async received(bytes) {
          const what = `${bytes} bytes of ${name}`
          await waitFor(() => proxy.received >= bytes, { what, everyMs: 5, explain })
        }
      }
    },
    async close() {
      for (const proxy of proxies) await proxy.close()
    }
  }
}

/** Of the multipart uploads that are under way for this key. */
export async function storedPartBytes(store: ObjectStore, key: string): Promise<number> {
  let bytes = 0
  for (const { uploadId } of await store.listUploads(key)) {
    for (const { sizeBytes } of await store.listParts(key, uploadId)) bytes += sizeBytes
  }
  return bytes
}
