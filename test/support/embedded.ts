/** Longshore in one process on embedded backends, at a real SFTP server behind a proxy; its objects in files or in MinIO. */
import { realpath } from 'node:fs/promises'
import { s3Store } from '../../drivers/store/s3.ts'
import type { ObjectStore } from '../../drivers/store/store.ts'
import { checkEmbedded, type EmbeddedCheckOptions } from './embedded-checker.ts'
import { type Longshore, startLongshore } from './longshore.ts'
import { type S3Server, startMinio } from './minio.ts'
import { startSshd } from './openssh.ts'
import { type FaultyProxy, startProxy } from './proxy.ts'
import type { Json } from './rest.ts'
import { type S3Proxy, startS3Proxy } from './s3-proxy.ts'
import { PATIENCE_MS, waitFor } from './wait.ts'

export interface Embedded {
  longshore: Longshore
  /** In front of the SFTP server. */
  proxy: FaultyProxy
  /** In front of MinIO; null where the objects are files. */
  s3: S3Proxy | null
  /** MinIO itself, past the proxy. */
  store: ObjectStore | null
  /** The folder of its one server, `partner`, as the server itself names it. */
  root: string
  /** Of one path below the root; undefined where there is none. */
  file(path: string): Promise<Json>
  /** Waits until the newest record of this path below the root is in this state. */
  becomes(path: string, status: string, timeoutMs?: number): Promise<Json>
  /** What is wrong, each a sentence: every file of the server ought to be notified. */
  problems(more?: Pick<EmbeddedCheckOptions, 'rules' | 'past' | 'messages'>): Promise<string[]>
  stop(): Promise<void>
}

export interface EmbeddedOptions {
  /** By default plain files. */
  store?: 'files' | 'minio'
  /** Where MinIO keeps its data. */
  minioDir?: string
  /** Of its server, beside the roots. */
  policy?: object
  /** Of its process, beside what leads to these backends. */
  env?: Record<string, string>
}

export async function startEmbedded(options: EmbeddedOptions = {}): Promise<Embedded> {
  const stops: (() => Promise<void>)[] = []
  const stop = async () => {
    for (const one of stops.splice(0).reverse()) await one()
  }
  try {
    const sshd = await startSshd()
    stops.push(() => sshd.stop())
    const proxy = await startProxy({ target: { host: '127.0.0.1', port: sshd.port } })
    stops.push(() => proxy.close())
    const root = await realpath(sshd.root)
    const minio = options.store === 'minio' ? await startMinio({ dir: options.minioDir }) : null
    if (minio) stops.push(() => minio.stop())
    const s3 = minio ? await startS3Proxy(minio.endpoint) : null
    if (s3) stops.push(() => s3.close())
    const bucket = 'longshore-files'
    const store = minio && s3Store({ ...minio, bucket })
    if (store) stops.push(() => store.close())
    const longshore = await startLongshore({
      env: { ...(minio ? environment(minio, s3!, bucket) : {}), ...options.env }
    })
    stops.push(() => longshore.stop())
    const { host, username, privateKey } = sshd
    const policy = { interval: 1, settle: { checks: 1, seconds: 0 }, ...options.policy }
    const address = { host, port: proxy.port, username, privateKey }
    await longshore.api.post('/servers', { name: 'partner', ...address, roots: [root], ...policy })

    const canaries = [privateKey.trim().split('\n')[2]!, ...(minio ? [minio.secretKey] : [])]
    const file = async (path: string) => {
      const [found] = await longshore.api.files(`&path=${encodeURIComponent(`${root}/${path}`)}`)
      return found && longshore.api.get(`/files/${found.id}`)
    }
    return {
      ...{ longshore, proxy, s3, store, root, file, stop },
      becomes: (path, status, timeoutMs = PATIENCE_MS) =>
        waitFor(async () => ((await file(path))?.status === status ? file(path) : null), {
          timeoutMs,
          what: `${path} to be ${status}`,
          explain: async () => `${JSON.stringify(await file(path))}\n${longshore.output()}`
        }),
      problems: async (more) => {
        const verdict = await checkEmbedded({
          longshore,
          root,
          s3: minio ? { minio, bucket } : undefined,
          canaries,
          ...more
        })
        return verdict.problems
      }
    }
  } catch (error) {
    await stop()
    throw error
  }
}

function environment({ accessKey, secretKey }: S3Server, { endpoint }: S3Proxy, bucket: string) {
  return { S3_ENDPOINT: endpoint, S3_ACCESS_KEY: accessKey, S3_SECRET_KEY: secretKey, S3_BUCKET: bucket }
}
