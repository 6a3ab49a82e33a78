import { existsSync, readdirSync } from 'node:fs'
import { chmod, mkdir, readdir, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { noteHeldFolder, noteLostFolder } from '../../drivers/held-folders.ts'
import { filesystemStore } from '../../drivers/store/filesystem.ts'
import { keyOf, pathOf } from '../../drivers/store/filesystem-path.ts'
import { temporaryFolder } from '../support/process.ts'
import { storeContract } from './store.contract.ts'

storeContract('the file system', async () => {
  const folder = await temporaryFolder('store')
  return { store: filesystemStore({ folder: folder.path, bucket: 'contract' }), dispose: folder.remove }
})

describe('the file-system store', () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  beforeAll(async () => {
    folder = await temporaryFolder('store')
  })
  afterAll(() => folder.remove())

  const write = { metadata: { of: 'x' }, crc32: 'cbf43926', condition: null }
  const body = Buffer.from('123456789')

  test('a path leads back to its key and stays one on file systems that fold case or normalise', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary', minLength: 1, maxLength: 400 }),
      fc.string({
        unit: fc.constantFrom('a', 'A', '.', '/', 'c', 'd', '%', '!', ' ', '\u00e9'),
        minLength: 1,
        maxLength: 700
      })
    )
    fc.assert(
      fc.property(text, (key) => {
        const path = pathOf(key)
        expect(keyOf(path)).toBe(key)
        expect(path).toBe(path.toLowerCase().normalize('NFC'))
        expect(path).toMatch(/^[\x20-\x7e]+$/)
        for (const name of path.split('/')) {
          expect(name.length).toBeLessThan(256)
          expect(['', '.', '..', '.longshore']).not.toContain(name)
        }
      }),
      { numRuns: 500 }
    )
  })

  test('a human finds an object by its name', async () => {
    const store = filesystemStore({ folder: folder.path, bucket: 'names' })
    await store.ensureReady()
    await store.put('north/2026/Report.csv', body, write)
    expect((await stat(join(folder.path, 'names/north.d/2026.d/!report.csv'))).size).toBe(9)
    expect(store.url('north/2026/Report.csv')).toMatch(/^file:.*\/names\/north\.d\/2026\.d\/!report\.csv$/)
    await store.remove('north/2026/Report.csv')
    expect(await readdir(join(folder.path, 'names'))).toEqual(['.longshore'])
    expect(await readdir(join(folder.path, 'names/.longshore/versions'))).toEqual([])
  })

  test('files and folders are for their owner alone, and no temporary file stays', async () => {
    const store = filesystemStore({ folder: folder.path, bucket: 'modes' })
    await store.ensureReady()
    await store.put('a/b', body, write)
    await expect(store.put('a/b', body, { ...write, condition: { ifNoneMatch: '*' } })).rejects.toThrow()
    expect((await stat(join(folder.path, 'modes/a.d/b'))).mode & 0o777).toBe(0o600)
    expect((await stat(join(folder.path, 'modes/a.d'))).mode & 0o777).toBe(0o700)
    expect(await readdir(join(folder.path, 'modes/.longshore/temporary'))).toEqual([])
  })

  test('what a dead process left is swept at once by whoever holds the folder, and what is being written is not', async () => {
    const store = filesystemStore({ folder: folder.path, bucket: 'dead', heldBy: folder.path })
    await store.ensureReady()
    const temporary = join(folder.path, 'dead/.longshore/temporary')
    await mkdir(join(temporary, 'half-removed'))
    for (const name of ['half-removed/00001-9-cbf43926.part', 'half-written'])
      await writeFile(join(temporary, name), 'x')
    await store.ensureReady()
    expect((await readdir(temporary)).sort()).toEqual(['half-removed', 'half-written'])

    const uploadId = await store.createUpload('k', {}, null)
    const isBegun = Promise.withResolvers<void>()
    const isSwept = Promise.withResolvers<void>()
    async function* blocks() {
      isBegun.resolve()
      await isSwept.promise
      yield { bytes: body, release() {} }
    }
    const part = store.uploadPart('k', uploadId, { number: 1, sizeBytes: 9, blocks: blocks(), blockBytes: 9 })
    await isBegun.promise
    noteHeldFolder(folder.path)
    try {
      await store.ensureReady()
      expect(await readdir(temporary)).toHaveLength(1)
      isSwept.resolve()
      expect(await part).toMatchObject({ number: 1, crc32: 'cbf43926' })
      await store.abortUpload('k', uploadId)
      expect(await readdir(temporary)).toEqual([])
    } finally {
      noteLostFolder(folder.path)
    }
  })

  test('what a dead process had reserved for a key goes when the key is written or removed by whoever holds the folder', async () => {
    const store = filesystemStore({ folder: folder.path, bucket: 'reserved', heldBy: folder.path })
    await store.ensureReady()
    const versions = join(folder.path, 'reserved/.longshore/versions')
    const told = () =>
      readdirSync(versions, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.json'))
    await store.put('k', body, write)
    const ofKey = join(versions, dirname(told()[0]!))
    const reserve = async () => {
      await mkdir(ofKey, { recursive: true })
      await writeFile(join(ofKey, '1-9.json'), '{"key":"k"}')
    }
    await reserve()
    // Another process may be about to make it its object.
    await store.put('k', body, write)
    expect(told()).toHaveLength(2)
    noteHeldFolder(folder.path)
    try {
      const { etag } = await store.put('k', body, write)
      expect(told()).toHaveLength(1)
      expect(await store.head('k')).toMatchObject({ etag, crc32: 'cbf43926' })
      await reserve()
      await store.remove('k')
      expect(await readdir(versions)).toEqual([])

      // A process that dies as soon as the object is there does not come again.
      await reserve()
      const written = store.put('k', body, { ...write, condition: { ifNoneMatch: '*' } })
      while (!existsSync(join(folder.path, 'reserved/k'))) await turn()
      expect(told()).toEqual([expect.not.stringMatching(/\/1-9\.json$/)])
      await written
    } finally {
      noteLostFolder(folder.path)
    }
  })

  test('a file put there by hand is an object without checksum', async () => {
    const store = filesystemStore({ folder: folder.path, bucket: 'by-hand' })
    await store.ensureReady()
    await writeFile(join(folder.path, 'by-hand/dropped.csv'), 'x')
    expect(await store.head('dropped.csv')).toMatchObject({ sizeBytes: 1, crc32: null, metadata: {} })
  })

  test('a second process sees what the first wrote', async () => {
    const first = filesystemStore({ folder: folder.path, bucket: 'shared' })
    const second = filesystemStore({ folder: folder.path, bucket: 'shared' })
    await first.ensureReady()
    const stored = await first.put('k', body, write)
    expect(await second.head('k')).toEqual(stored)
    const both = [first, second].map((store) => store.put('race', body, { ...write, condition: { ifNoneMatch: '*' } }))
    const results = await Promise.allSettled(both)
    expect(results.map((result) => result.status).sort()).toEqual(['fulfilled', 'rejected'])
    expect(await first.head('race')).toMatchObject({ crc32: 'cbf43926', metadata: { of: 'x' } })
  })

  test('a folder that may not be written is STORE_DENIED', async () => {
    const store = filesystemStore({ folder: folder.path, bucket: 'denied' })
    await store.ensureReady()
    await chmod(join(folder.path, 'denied/.longshore/temporary'), 0o500)
    // Root may write everywhere, so it is somebody else for the moment.
    const isRoot = process.getuid?.() === 0
    if (isRoot) process.seteuid!(65_534)
    try {
      await expect(store.put('k', body, write)).rejects.toMatchObject({ type: 'STORE_DENIED' })
    } finally {
      if (isRoot) process.seteuid!(0)
    }
  })

  test('a folder that is gone is STORE_UNAVAILABLE', async () => {
    const store = filesystemStore({ folder: join(folder.path, 'gone'), bucket: 'gone' })
    await expect(store.put('k', body, write)).rejects.toMatchObject({ type: 'STORE_UNAVAILABLE' })
  })
})
