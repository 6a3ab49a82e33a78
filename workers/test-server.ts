/** Whether a server can be used as it is configured. The partner's failures are an answer, never an error of ours. */
import { errorType } from '../domain/errors.ts'
import { type Connector, connectToServer, type ServerTarget } from './connect.ts'

export interface RootTest {
  path: string
  readable: boolean
  /** Entries of the first page, at most. */
  entries: number
  error?: { type: string; message: string }
}

export interface ServerTest {
  ok: boolean
  /** The one that the server showed, pinned or not; null where it came to none. */
  hostKey: string | null
  latencyMs: number | null
  roots: RootTest[]
  error: { type: string; message: string } | null
}

const TEST_MS = 25_000

export async function testServer(connector: Connector, target: ServerTarget, roots: string[]): Promise<ServerTest> {
  let hostKey: string | null = null
  const seeing: Connector = {
    ...connector,
    open: (to, options) =>
      connector.open(to, {
        ...options,
        verifyHostKey: (fingerprint) => {
          hostKey = fingerprint
          return options.verifyHostKey(fingerprint)
        }
      })
  }
  try {
    const sftp = await connectToServer(seeing, target, AbortSignal.timeout(TEST_MS))
    try {
      const tested: RootTest[] = []
      for (const path of roots) {
        try {
          let entries = 0
          for await (const page of sftp.list(await sftp.realpath(path))) {
            entries = page.length
            break
          }
          tested.push({ path, readable: true, entries })
        } catch (error) {
          tested.push({ path, readable: false, entries: 0, error: shown(error) })
        }
      }
      const failed = tested.find((root) => !root.readable)
      const latencyMs = Math.round(sftp.latencyMs * 10) / 10
      return { ok: !failed, hostKey, latencyMs, roots: tested, error: failed?.error ?? null }
    } finally {
      await sftp.close()
    }
  } catch (error) {
    return { ok: false, hostKey, latencyMs: null, roots: [], error: shown(error) }
  }
}

function shown(error: unknown): { type: string; message: string } {
  return { type: errorType(error), message: (error as Error).message }
}
