import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals'
import { filesystemStore } from '../../drivers/store/filesystem.ts'
import { leftAside, leftoverFiles, type RunFolders } from '../support/leftovers.ts'
import { temporaryFolder } from '../support/process.ts'

describe('the checker of files that were left', () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let folders: RunFolders
  let runs = 0
  beforeAll(async () => {
    folder = await temporaryFolder('leftovers')
  })
  afterAll(() => folder.remove())
  beforeEach(() => {
    const run = join(folder.path, String(runs++))
    folders = { data: join(run, 'data'), temporary: join(run, 'tmp') }
  })

  async function plant(...paths: string[]): Promise<void> {
    for (const path of paths) {
      const full = join(folders.data, path)
      await mkdir(dirname(full), { recursive: true })
      await writeFile(full, 'x')
    }
  }

  test('says nothing of what an installation keeps, nor of folders that are not there', async () => {
    expect(await leftoverFiles(folders)).toEqual([])
    await plant('files.db', 'servers.db', 'timeline.db', 'files.db.damaged', 'notifications.ndjson', 'encryption.key')
    await plant('objects/longshore/partner.d/a')
    await plant('objects/longshore/.longshore/uploads/u/upload.json', 'objects/longshore/.longshore/uploads/u/1.part')
    expect(await leftoverFiles(folders)).toEqual([])
  })

  test.each([
    'files.db~',
    'files.db.mending',
    'notifications.ndjson.new',
    'objects/longshore/.longshore/temporary/x',
    '../tmp/x'
  ])('reports %s', async (path) => {
    await plant(path)
    expect(await leftoverFiles(folders)).toEqual([`${path} was left`])
  })

  test('reports the lock of a process that has ended, and none of one that lives', async () => {
    const owner = (pid: number) => writeFile(join(folders.data, 'longshore.owner'), JSON.stringify({ pid }))
    await mkdir(join(folders.data, 'longshore.lock'), { recursive: true })
    expect(await leftoverFiles(folders)).toEqual(['longshore.lock was left'])
    await owner(process.pid)
    expect(await leftoverFiles(folders)).toEqual([])
    // Above the highest number that Linux gives.
    await owner(2 ** 22 + 1)
    expect(await leftoverFiles(folders)).toEqual(['longshore.owner was left'])
  })

  test('reports what is told of contents that an object never had, or has not any more', async () => {
    const store = filesystemStore({ folder: join(folders.data, 'objects'), bucket: 'longshore' })
    await store.ensureReady()
    const body = Buffer.from('123456789')
    await store.put('k', body, { metadata: {}, crc32: 'cbf43926', condition: null })
    expect(await leftoverFiles(folders)).toEqual([])
    const versions = 'objects/longshore/.longshore/versions/aa/bb'
    await mkdir(join(folders.data, versions), { recursive: true })
    for (const [name, key] of [
      ['1-9', 'k'],
      ['1-1', 'not-stored-yet']
    ])
      await writeFile(join(folders.data, versions, `${name}.json`), JSON.stringify({ key }))
    expect(await leftoverFiles(folders)).toEqual([`${versions}/1-9.json was left`])
  })

  test('reports an upload that nothing describes', async () => {
    await plant('objects/longshore/.longshore/uploads/u/00001-1-cbf43926.part')
    expect(await leftoverFiles(folders)).toEqual(['objects/longshore/.longshore/uploads/u was left'])
  })

  test('reports a file of a partner that was set aside, and no other', () => {
    expect(leftAside(['/in/a.csv', '/in/.longshore-x', '/in/x.longshore-y', '/.longshore-z/a'])).toEqual([
      '/in/.longshore-x was left aside'
    ])
  })
})
