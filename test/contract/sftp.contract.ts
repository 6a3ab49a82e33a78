/** What every SFTP server must give through drivers/sftp; run against each server that the tests can have. */
import { execFileSync } from 'node:child_process'
import { createHash, randomFillSync } from 'node:crypto'
import { mkdir, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { IngestError } from '../../domain/errors.ts'
import { connectSftp } from '../../drivers/sftp/connection.ts'
import type { ConnectOptions, Entry, Sftp, SftpTarget } from '../../drivers/sftp/sftp.ts'
import { openBelow } from '../support/handles.ts'
import { freePort } from '../support/ports.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'

export interface ContractServer {
  target: SftpTarget
  /** The same with a secret that is wrong. */
  wrongTarget: SftpTarget
  hostKey: string
  /** The folder as this machine sees it, and as the server's clients do. */
  localRoot: string
  remoteRoot: string
  stop(): Promise<void>
}

const mebibyte = 1024 * 1024

/**
 * What a server may lack, and then names with the reason. It concerns the one claim that needs it, and that server only.
 *   links          shows symbolic links
 *   lstatOfLinks   LSTAT tells of the link, not of what it leads to
 *   pipes          lists a pipe, and as something other than a file
 *   lineBreaks     passes on a name with a line break as it is
 *   invalidNames   lists a folder though one of its names is not UTF-8
 *   refusals       RENAME and MKDIR refuse a name that is taken
 *   heldFiles      an open file can be read after it was renamed and deleted
 *   endOfCutFile   says of a file that was cut that it ended, not that reading failed
 */
type Need =
  | 'links'
  | 'lstatOfLinks'
  | 'pipes'
  | 'lineBreaks'
  | 'invalidNames'
  | 'refusals'
  | 'heldFiles'
  | 'endOfCutFile'
export type Lacks = Partial<Record<Need, string>>

/** Runs the suite; `open` starts a server whose root is an empty folder. */
export function sftpContract(name: string, open: () => Promise<ContractServer>, lacks: Lacks = {}): void {
  describe(name, () => {
    let server: ContractServer
    let proxy: FaultyProxy
    let sftp: Sftp

    /** A claim that fails where its need is lacking, and must: a server that has learned it is to be noticed. */
    const claim = (need: Need, title: string, run: () => Promise<void>) => {
      if (lacks[need]) test.failing(`does not hold: ${title} (${lacks[need]})`, run)
      else test(title, run)
    }
    const options = (more: Partial<ConnectOptions> = {}): ConnectOptions => ({
      verifyHostKey: async () => {},
      resolveAddress: async (host) => (host === 'localhost' ? '127.0.0.1' : host),
      ...more
    })
    const local = (path: string) => join(server.localRoot, path)
    const remote = (path: string) => join(server.remoteRoot, path)
    const throughProxy = (more: Partial<ConnectOptions> = {}) =>
      connectSftp({ ...server.target, port: proxy.port }, options(more))
    const list = async (path: string): Promise<Entry[]> => (await pages(sftp, remote(path))).flat()

    beforeAll(async () => {
      server = await open()
      proxy = await startProxy({ target: { host: '127.0.0.1', port: server.target.port } })
      sftp = await connectSftp(server.target, options())
    })
    afterAll(async () => {
      // A handle that is still open here was leaked by one of the cases.
      const leaked = await openBelow(server.localRoot)
      await sftp.close()
      await proxy.close()
      await server.stop()
      expect(leaked).toEqual([])
    })

    test('knows the server by its host key and measures its latency', () => {
      expect(sftp.hostKey).toBe(server.hostKey)
      expect(sftp.latencyMs).toBeGreaterThan(0)
      expect(sftp.readBytes).toBeGreaterThanOrEqual(16 * 1024)
    })

    test('resolves paths', async () => {
      await mkdir(local('resolve'))
      expect(await sftp.realpath(remote('resolve/.'))).toBe(remote('resolve'))
    })

    test('tells files and folders apart', async () => {
      await mkdir(local('kinds/folder'), { recursive: true })
      await writeFile(local('kinds/file'), 'hello')
      const entries = await list('kinds')
      expect(entries.map(({ name: entry, kind }) => [entry, kind]).sort()).toEqual([
        ['file', 'file'],
        ['folder', 'folder']
      ])
      expect(entries.find((entry) => entry.name === 'file')).toMatchObject({ sizeBytes: 5, badName: null })
      expect(await sftp.lstat(remote('kinds/folder'))).toMatchObject({ kind: 'folder' })
      const { mtimeSeconds } = await sftp.stat(remote('kinds/file'))
      expect(Math.abs(mtimeSeconds - Date.now() / 1000)).toBeLessThan(60)
    })

    claim('links', 'lists a symbolic link as one, and follows it when asked', async () => {
      await mkdir(local('links'))
      await writeFile(local('links/file'), 'hello')
      await symlink('file', local('links/link'))
      expect((await list('links')).find((entry) => entry.name === 'link')).toMatchObject({ kind: 'symlink' })
      expect(await sftp.stat(remote('links/link'))).toMatchObject({ kind: 'file', sizeBytes: 5 })
    })

    claim(lacks.links ? 'links' : 'lstatOfLinks', 'looks at a symbolic link itself', async () => {
      await writeFile(local('behind'), 'hello')
      await symlink('behind', local('link'))
      expect(await sftp.lstat(remote('link'))).toMatchObject({ kind: 'symlink' })
    })

    claim('pipes', 'tells a pipe from a file', async () => {
      await mkdir(local('pipes'))
      execFileSync('mkfifo', [local('pipes/pipe')])
      expect(await list('pipes')).toMatchObject([{ name: 'pipe', kind: 'other' }])
    })

    test('lists 5,000 files page by page, each once', async () => {
      await mkdir(local('many'))
      const names = Array.from({ length: 5000 }, (_, index) => `file-${String(index).padStart(4, '0')}`)
      for (const file of names) await writeFile(local(`many/${file}`), '')

      const found = await pages(sftp, remote('many'))
      expect(found.length).toBeGreaterThan(1)
      expect(
        found
          .flat()
          .map((entry) => entry.name)
          .sort()
      ).toEqual(names)
    })

    test('lists an empty folder as nothing', async () => {
      await mkdir(local('empty'))
      expect(await pages(sftp, remote('empty'))).toEqual([])
    })

    test('closes the folder when the consumer stops early', async () => {
      for await (const page of sftp.list(remote('many'))) {
        expect(page.length).toBeGreaterThan(0)
        break
      }
      expect(await openBelow(server.localRoot)).toEqual([])
    })

    test('carries names of any UTF-8', async () => {
      const names = [`'single' "double" \`back\``, '🚢 привет', 'é-nfc', 'e\u0301-nfd', ' ', '-rf', 'x'.repeat(255)]
      await mkdir(local('names'))
      for (const file of names) await writeFile(local(`names/${file}`), file)

      const entries = await list('names')
      expect(entries.map((entry) => entry.name).sort()).toEqual([...names].sort())
      expect(entries.every((entry) => entry.badName === null)).toBe(true)
      for (const file of names) expect((await readAll(sftp, remote(`names/${file}`))).toString()).toBe(file)
    })

    claim('lineBreaks', 'carries a name with a line break', async () => {
      await mkdir(local('line-breaks'))
      await writeFile(local('line-breaks/one\ntwo'), 'hello')
      expect((await list('line-breaks')).map((entry) => entry.name)).toEqual(['one\ntwo'])
      expect((await readAll(sftp, remote('line-breaks/one\ntwo'))).toString()).toBe('hello')
    })

    claim('invalidNames', 'flags a name that is not UTF-8', async () => {
      await mkdir(local('invalid'))
      await writeFile(Buffer.concat([Buffer.from(local('invalid/')), Buffer.from([0x61, 0xff, 0x62])]), '')
      await writeFile(local('invalid/good'), '')
      const entries = await list('invalid')
      expect(entries.find((entry) => entry.name === 'good')?.badName).toBeNull()
      // ssh2's server cannot even look at such a file and leaves it out.
      for (const entry of entries.filter((one) => one.name !== 'good')) expect(entry.badName).toBe('not UTF-8')
    })

    test('says of a file that it is no folder to be listed', async () => {
      await writeFile(local('no-folder'), 'hello')
      const error = await failure(pages(sftp, remote('no-folder')))
      expect(error).toMatchObject({ type: 'SFTP_FAILURE' })
      expect(error.message).toMatch(/no-folder": it is a file, not a folder/)
    })

    test('says which path is missing', async () => {
      for (const attempt of [
        () => sftp.stat(remote('nowhere')),
        () => sftp.lstat(remote('nowhere')),
        () => sftp.open(remote('nowhere')),
        () => pages(sftp, remote('nowhere')),
        () => sftp.unlink(remote('nowhere')),
        () => sftp.rename(remote('nowhere'), remote('elsewhere'))
      ]) {
        const error = await failure(attempt())
        expect(error).toMatchObject({ type: 'SFTP_NO_SUCH_PATH' })
        expect(error.message).toContain('nowhere')
      }
    })

    test('renames, deletes and makes folders', async () => {
      await sftp.mkdir(remote('made'))
      await writeFile(local('made/one'), '1')
      await writeFile(local('made/two'), '2')
      await sftp.rename(remote('made/one'), remote('made/three'))
      await sftp.unlink(remote('made/two'))
      expect((await list('made')).map((entry) => entry.name)).toEqual(['three'])
    })

    claim('refusals', 'replaces nothing that exists', async () => {
      await sftp.mkdir(remote('taken'))
      await writeFile(local('taken/one'), '1')
      await writeFile(local('taken/two'), '2')
      const renaming = sftp.rename(remote('taken/one'), remote('taken/two'))
      expect(await failure(renaming)).toMatchObject({ type: 'SFTP_FAILURE' })
      expect(await failure(sftp.mkdir(remote('taken')))).toMatchObject({ type: 'SFTP_FAILURE' })
      expect((await readAll(sftp, remote('taken/two'))).toString()).toBe('2')
    })

    test('reads files of every odd size', async () => {
      await mkdir(local('sizes'))
      const { readBytes } = sftp
      for (const size of [0, 1, 2, readBytes - 1, readBytes, readBytes + 1, 3 * readBytes + 7, 2 * mebibyte + 12_345]) {
        const content = randomFillSync(Buffer.alloc(size))
        await writeFile(local('sizes/file'), content)
        const file = await sftp.open(remote('sizes/file'))
        expect(await file.stat()).toMatchObject({ kind: 'file', sizeBytes: size })
        expect((await file.readSmall(size)).equals(content)).toBe(true)
        await file.close()
      }
    })

    test('gives blocks of exactly readBytes from any start', async () => {
      const { readBytes } = sftp
      const content = randomFillSync(Buffer.alloc(5 * readBytes))
      await writeFile(local('blocks'), content)
      const file = await sftp.open(remote('blocks'))
      const sizes: number[] = []
      const kept: Buffer[] = []
      let arrived = 0
      const onBytes = (bytes: number) => {
        arrived += bytes
      }
      // No block is released, so none may be overwritten by a later one.
      for await (const block of file.blocks(1000, 3 * readBytes + 5, { onBytes })) {
        sizes.push(block.bytes.length)
        kept.push(block.bytes)
      }
      await file.close()
      expect(sizes).toEqual([readBytes, readBytes, readBytes, 5])
      expect(Buffer.concat(kept).equals(content.subarray(1000, 1000 + 3 * readBytes + 5))).toBe(true)
      expect(arrived).toBe(3 * readBytes + 5)
    })

    test('reads 64 MiB in four ranges at once, each on a channel of its own', async () => {
      const content = randomFillSync(Buffer.alloc(64 * mebibyte))
      await writeFile(local('large'), content)
      const part = content.length / 4
      const ranges = await Promise.all(
        [0, 1, 2, 3].map(async (index) => {
          const file = await sftp.open(remote('large'), { channel: index + 1 })
          const range = Buffer.alloc(part)
          let at = 0
          for await (const block of file.blocks(index * part, part)) {
            at += block.bytes.copy(range, at)
            block.release()
          }
          await file.close()
          return range
        })
      )
      const hash = createHash('sha256')
      for (const range of ranges) hash.update(range)
      expect(hash.digest('hex')).toBe(createHash('sha256').update(content).digest('hex'))
    })

    test('reads on rightly after a range was abandoned', async () => {
      const content = randomFillSync(Buffer.alloc(8 * mebibyte))
      await writeFile(local('abandoned'), content)
      const file = await sftp.open(remote('abandoned'))
      for (let round = 0; round < 5; round++) {
        for await (const block of file.blocks(0, content.length)) {
          block.release()
          break
        }
        expect((await file.readSmall(content.length)).equals(content)).toBe(true)
      }
      await file.close()
    })

    test('reports a file that was cut while it was read', async () => {
      // More than is on its way at once, and than a server reads ahead (rclone: 16 MiB): the end is not read before the cut.
      const sizeBytes = 64 * mebibyte
      await writeFile(local('cut'), Buffer.alloc(sizeBytes, 7))
      const file = await sftp.open(remote('cut'))
      const error = await failure(
        (async () => {
          let first = true
          for await (const block of file.blocks(0, sizeBytes)) {
            block.release()
            if (first) await truncate(local('cut'), mebibyte)
            first = false
          }
        })()
      )
      const type = lacks.endOfCutFile ? 'SFTP_FAILURE' : 'SOURCE_CHANGED'
      expect(error).toMatchObject({ type, data: { path: remote('cut') } })
      expect(await failure(file.readSmall(2 * mebibyte))).toMatchObject({ type })
      await file.close()
    })

    claim('heldFiles', 'keeps reading a file that was renamed and deleted meanwhile', async () => {
      await writeFile(local('moving'), Buffer.alloc(mebibyte, 9))
      const file = await sftp.open(remote('moving'))
      await rename(local('moving'), local('moved'))
      await rm(local('moved'))
      const reading = file.readSmall(mebibyte).finally(() => file.close())
      expect((await reading).equals(Buffer.alloc(mebibyte, 9))).toBe(true)
    })

    test('stops reading within a moment of an abort', async () => {
      const file = await sftp.open(remote('large'), { channel: 1 })
      const cancelling = new AbortController()
      const error = await failure(
        (async () => {
          for await (const block of file.blocks(0, 64 * mebibyte, { signal: cancelling.signal })) {
            block.release()
            cancelling.abort()
          }
        })()
      )
      expect(error).toMatchObject({ type: 'CANCELLED' })
      await file.close()

      const leaseLost = new IngestError('LEASE_LOST', 'gone')
      expect(await failure(sftp.open(remote('large'), { signal: AbortSignal.abort(leaseLost) }))).toBe(leaseLost)
    })

    test('refuses a wrong host key before it authenticates', async () => {
      const mismatch = new IngestError('SFTP_HOST_KEY_MISMATCH', 'another key')
      let seen = ''
      const verifyHostKey = async (fingerprint: string) => {
        seen = fingerprint
        throw mismatch
      }
      // With credentials that are wrong: had they been tried, the failure would be theirs.
      expect(await failure(connectSftp(server.wrongTarget, options({ verifyHostKey })))).toBe(mismatch)
      expect(seen).toBe(server.hostKey)
    })

    test('reports refused credentials', async () => {
      const error = await failure(connectSftp(server.wrongTarget, options()))
      expect(error).toMatchObject({ type: 'SFTP_AUTH_FAILED' })
      const secret = server.wrongTarget.password ?? server.wrongTarget.privateKey!
      expect(error.message).not.toContain(secret)
    })

    test('reports a private key that cannot be used', async () => {
      const target = { ...server.target, password: undefined, privateKey: 'no key at all' }
      const error = await failure(connectSftp(target, options()))
      expect(error).toMatchObject({ type: 'SFTP_AUTH_FAILED' })
      expect(error.message).toContain('private key')
    })

    test('reports a port that nothing listens on', async () => {
      const port = await freePort()
      const error = await failure(connectSftp({ ...server.target, port }, options()))
      expect(error).toMatchObject({ type: 'SFTP_UNREACHABLE' })
      expect(error.message).toContain(`${server.target.host}:${port}`)
    })

    test('passes on what the resolving of the address says', async () => {
      const denied = new IngestError('ADDRESS_DENIED', 'no')
      const resolveAddress = () => Promise.reject(denied)
      expect(await failure(connectSftp(server.target, options({ resolveAddress })))).toBe(denied)
    })

    test('reports algorithms that the server lacks', async () => {
      const target = { ...server.target, algorithms: { serverHostKey: ['ssh-dss'] } }
      const error = await failure(connectSftp(target, options()))
      expect(error).toMatchObject({ type: 'SFTP_PROTOCOL' })
      expect(error.message).toContain('host key')
    })

    test('rejects everything at once when the connection is cut', async () => {
      const cut = await throughProxy()
      const file = await cut.open(remote('large'), { channel: 1 })
      proxy.cutAfter(4 * mebibyte)
      const reading = failure(
        (async () => {
          for await (const block of file.blocks(0, 64 * mebibyte)) block.release()
        })()
      )
      expect(await reading).toMatchObject({ type: 'SFTP_CONNECTION_LOST' })
      expect(cut.closed.aborted).toBe(true)
      expect(cut.closed.reason).toMatchObject({ type: 'SFTP_CONNECTION_LOST' })
      // ssh2 itself would never answer these.
      expect(await failure(cut.stat('/'))).toMatchObject({ type: 'SFTP_CONNECTION_LOST' })
      expect(await failure(cut.open('/x', { channel: 5 }))).toMatchObject({ type: 'SFTP_CONNECTION_LOST' })
      await file.close()
      await cut.close()
    })

    test('times out when the server falls silent', async () => {
      const silent = await throughProxy({ timeoutMs: 700 })
      const file = await silent.open(remote('large'))
      const blocks = file.blocks(0, 64 * mebibyte)[Symbol.asyncIterator]()
      await blocks.next()
      proxy.blackhole()
      const stalled = failure(
        (async () => {
          while (!(await blocks.next()).done);
        })()
      )
      expect(await failure(silent.stat(remote('large')))).toMatchObject({ type: 'SFTP_TIMEOUT' })
      expect(await stalled).toMatchObject({ type: 'STALLED' })
      expect(await failure(throughProxy({ timeoutMs: 300 }))).toMatchObject({ type: 'SFTP_TIMEOUT' })
      proxy.restore()
      expect(await silent.stat(remote('large'))).toMatchObject({ kind: 'file' })
      await file.close()
      await silent.close()
    })

    test('stops connecting on an abort', async () => {
      proxy.blackhole()
      const cancelling = new AbortController()
      const connecting = failure(throughProxy({ signal: cancelling.signal }))
      cancelling.abort()
      expect(await connecting).toMatchObject({ type: 'CANCELLED' })
      proxy.restore()
    })

    test('says that it was closed by this side', async () => {
      const closing = await connectSftp(server.target, options())
      await Promise.all([closing.close(), closing.close()])
      expect(closing.closed.aborted).toBe(true)
      expect(await failure(closing.stat('/'))).toMatchObject({ type: 'CANCELLED' })
    })
  })
}

async function pages(sftp: Sftp, path: string): Promise<Entry[][]> {
  const found: Entry[][] = []
  for await (const page of sftp.list(path)) found.push(page)
  return found
}

async function readAll(sftp: Sftp, path: string): Promise<Buffer> {
  const file = await sftp.open(path)
  const { sizeBytes } = await file.stat()
  const content = await file.readSmall(sizeBytes)
  await file.close()
  return content
}

/** The error that a promise rejects with; fails the test when it resolves, or takes as long as a default time-out. */
async function failure(attempt: Promise<unknown>): Promise<IngestError> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('no failure within 25 seconds')), 25_000)
  })
  try {
    await Promise.race([attempt, late])
  } catch (error) {
    return error as IngestError
  } finally {
    clearTimeout(timer)
  }
  throw new Error('expected a failure')
}
