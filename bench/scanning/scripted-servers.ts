/** SFTP servers that exist at the border of the driver only, for more files and more servers than a machine holds. */
import { hash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { Attributes, Entry, Sftp } from '../../drivers/sftp/sftp.ts'

const PAGE = 100
const attributes = { mode: 0o100644, uid: 0, gid: 0 }
const file = (name: string, sizeBytes: number): Entry => ({
  ...{ ...attributes, kind: 'file', badName: null },
  name,
  sizeBytes,
  mtimeSeconds: 1_750_000_000 + sizeBytes
})
const folder = (name: string): Entry => ({ ...file(name, 0), kind: 'folder', mode: 0o40755 })

function scripted(list: (path: string) => AsyncGenerator<Entry[]>): Sftp {
  const closed = new AbortController()
  const found = async (): Promise<Attributes> => file('', 1)
  const sftp = {
    hostKey: 'SHA256:scripted',
    latencyMs: 0,
    closed: closed.signal,
    realpath: async (path: string) => path,
    stat: found,
    lstat: found,
    list,
    close: async () => closed.abort()
  }
  return sftp as unknown as Sftp
}

/** 1,000 folders of 1,000 files, in pages of 100, each page in a turn of the event loop of its own. */
export function millionFiles(): Sftp {
  return scripted(async function* (path) {
    const isRoot = path === '/'
    for (let first = 0; first < 1000; first += PAGE) {
      await new Promise(setImmediate)
      yield Array.from({ length: PAGE }, (_, index) => {
        const number = String(first + index).padStart(6, '0')
        return isRoot ? folder(`partner-${number}`) : file(`invoice-2026-11-${number}.xml`, first + index + 1)
      })
    }
  })
}

/** What a scan of a small server took with real ones, beside what the scan of a simulated one takes by itself. */
export interface ListingCost {
  /** CPU of the scanner. */
  cpuMs: number
  /** From the connect to the end of the listing. */
  latencyMs: number
  files: number
}

const block = Buffer.alloc(4096)
const hashes = (count: number) => {
  for (let index = 0; index < count; index++) hash('sha256', block)
}
let hashesPerMs = 0

/**
 * Keeps the processor busy by as much work as takes so long when nobody else wants it. Not by its clocks: a thread's own
 * time moves in ticks of the kernel, 4 ms or so, and on a busy machine the wall's runs on while the thread waits.
 */
function work(cpuMs: number): void {
  if (hashesPerMs === 0) {
    hashes(2_000)
    const rates = Array.from({ length: 20 }, () => {
      const before = performance.now()
      hashes(200)
      return 200 / (performance.now() - before)
    })
    // The fastest is the one that nobody interrupted.
    hashesPerMs = Math.max(...rates)
  }
  hashes(Math.round(cpuMs * hashesPerMs))
}

/** Costs what a real one does: waits as long in five steps, and keeps the processor as busy between them. */
export async function simulatedServer({ cpuMs, latencyMs, files }: ListingCost, signal?: AbortSignal): Promise<Sftp> {
  const step = async () => {
    await delay(latencyMs / 5, undefined, { signal })
    work(cpuMs / 5)
  }
  for (let i = 0; i < 4; i++) await step()
  return scripted(async function* () {
    await step()
    yield Array.from({ length: files }, (_, index) => file(`file-${index}`, index + 1))
  })
}
