import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, rmdir, stat, watch, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import { Errors, ServiceBroker } from 'moleculer'
import type { Collection } from '../../drivers/db/collection.ts'
import { openDatabase } from '../../drivers/db/connection.ts'
import type { Database } from '../../drivers/db/database.ts'
import { collectionMixin, type WithCollection } from '../../mixins/collection.mixin.ts'
import { collectionContract, type Thing, thingIndexes } from './collection.contract.ts'

const connectionModule = new URL('../../drivers/db/connection.ts', import.meta.url)

async function openThings(database: Database, name = 'things'): Promise<Collection<Thing>> {
  const adapter = database.adapter(name)
  await adapter.connect()
  return database.collection<Thing>(adapter, thingIndexes)
}

collectionContract('NeDB', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'longshore-nedb-'))
  return {
    open: async (name) => {
      const database = await openDatabase({ mongoUrl: null, dataDir })
      return { collection: await openThings(database, name), close: () => database.close() }
    },
    stop: () => rm(dataDir, { recursive: true, force: true })
  }
})

describe('the embedded database', () => {
  let parent: string
  let dataDir: string
  const opened: Database[] = []
  const children: ChildProcess[] = []

  beforeEach(async () => {
    parent = await mkdtemp(join(tmpdir(), 'longshore-nedb-'))
    dataDir = join(parent, 'data')
  })
  afterEach(async () => {
    for (const child of children.splice(0)) await killed(child)
    for (const database of opened.splice(0)) await database.close()
    await rm(parent, { recursive: true, force: true })
  })

  async function open(): Promise<Database> {
    const database = await openDatabase({ mongoUrl: null, dataDir })
    opened.push(database)
    return database
  }

  /** Another process that holds the folder, until it is killed. */
  async function otherProcess(): Promise<ChildProcess> {
    const source = `
      import { openDatabase } from ${JSON.stringify(connectionModule.href)}
      const database = await openDatabase({ mongoUrl: null, dataDir: process.argv[1] })
      const adapter = database.adapter('things')
      await adapter.connect()
      const things = await database.collection(adapter, [])
      await things.insertNew([{ _id: 'theirs', revision: 0, status: 'new' }])
      console.log('open')
      process.stdin.resume().on('end', () => process.exit())`
    const child = spawn(process.execPath, ['--input-type=module', '-e', source, dataDir])
    children.push(child)
    child.stderr.pipe(process.stderr)
    await Promise.race([
      once(child.stdout, 'data'),
      once(child, 'exit').then(() => Promise.reject(new Error('the other process ended')))
    ])
    return child
  }

  async function killed(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  }

  test('finds everything again when it is opened again', async () => {
    const before = await open()
    const things = await openThings(before)
    await things.insertNew([
      { _id: '1', revision: 0, status: 'new', key: 'a', blob: 'two\nlines "quoted" 🚢' },
      { _id: '2', revision: 0, status: 'new', size: 1 },
      { _id: '3', revision: 0, status: 'new' }
    ])
    const [second] = await things.findByIds(['2'])
    await things.replaceEach([{ from: second!, to: { ...second!, status: 'stored', size: undefined } }])
    await things.removeByIds(['3'])
    const stored = await things.find({}, { sort: { _id: 1 } })
    await before.close()

    const again = await openThings(await open())
    expect(await again.find({}, { sort: { _id: 1 } })).toEqual(stored)
    expect(await again.insertNew([{ _id: '4', revision: 0, status: 'new', key: 'a' }])).toEqual(new Set())
  })

  test('compacts its files when it is closed', async () => {
    const database = await open()
    const things = await openThings(database)
    await things.insertNew([{ _id: '1', revision: 0, status: 'new' }])
    for (let i = 0; i < 20; i++) {
      const [from] = await things.findByIds(['1'])
      await things.replaceEach([{ from: from!, to: { ...from!, size: i } }])
    }
    await database.close()
    const lines = (await readFile(join(dataDir, 'things.db'), 'utf8')).split('\n')
    expect(lines.filter((line) => line.includes('"_id"')).length).toBe(1)
  })

  test('confirms a change only when its line is in the file, however many wait together', async () => {
    const things = await openThings(await open())
    const documents = Array.from({ length: 300 }, (_, i): Thing => ({ _id: `id-${i}`, revision: 0, status: 'new' }))
    await Promise.all(
      documents.map(async (document) => {
        await things.insertNew([document])
        expect(await readFile(join(dataDir, 'things.db'), 'utf8')).toContain(`{"_id":"${document._id}","revision":0`)
        await things.replaceEach([{ from: document, to: { ...document, status: 'stored' } }])
        expect(await readFile(join(dataDir, 'things.db'), 'utf8')).toContain(`{"_id":"${document._id}","revision":1`)
      })
    )
  })

  test('writes what is asked for together at once', async () => {
    const things = await openThings(await open())
    await things.insertNew([{ _id: 'first', revision: 0, status: 'new' }])
    const lengths = new Set<number>()
    const file = join(dataDir, 'things.db')
    const watching = (async () => {
      for await (const _ of watch(file, { signal: AbortSignal.timeout(500) })) lengths.add((await stat(file)).size)
    })().catch(() => undefined)
    await Promise.all(
      Array.from({ length: 400 }, (_, i) => things.insertNew([{ _id: `id-${i}`, revision: 0, status: 'new' }]))
    )
    await watching
    expect(await things.count({})).toBe(401)
    // The first one finds nobody under way and goes alone; the others go together.
    expect(lengths.size).toBeLessThan(10)
  })

  test('keeps its folder and files from other users', async () => {
    const database = await open()
    const things = await openThings(database)
    await things.insertNew([{ _id: '1', revision: 0, status: 'new' }])
    async function modes(): Promise<number[]> {
      const files = (await readdir(dataDir)).filter((name) => !name.endsWith('.lock'))
      return Promise.all(files.map(async (name) => (await stat(join(dataDir, name))).mode & 0o777))
    }
    expect((await stat(dataDir)).mode & 0o777).toBe(0o700)
    expect(new Set(await modes())).toEqual(new Set([0o600]))
    await database.close()
    expect(new Set(await modes())).toEqual(new Set([0o600]))
  })

  test('drops half a line at the end, which a killed process leaves', async () => {
    const before = await open()
    await (await openThings(before)).insertNew([{ _id: '1', revision: 0, status: 'new' }])
    await before.close()
    await appendFile(join(dataDir, 'things.db'), '{"_id":"2","revision":0,"sta')
    const again = await openThings(await open())
    expect(await again.count({})).toBe(1)
    expect(await again.insertNew([{ _id: '2', revision: 0, status: 'new' }])).toEqual(new Set(['2']))
  })

  test('torn at any byte, opens with every line before the tear, and says what was cut', async () => {
    const before = await open()
    const documents = Array.from({ length: 3 }, (_, i): Thing => ({ _id: `id-${i}`, revision: 0, status: 'new' }))
    const things = await openThings(before)
    for (const document of documents) await things.insertNew([document])
    await before.close()
    const whole = await readFile(join(dataDir, 'things.db'))
    const ends = [...whole.keys()].filter((at) => whole[at] === 10)
    for (let bytes = 0; bytes <= whole.length; bytes++) {
      await writeFile(join(dataDir, 'things.db'), whole.subarray(0, bytes))
      const database = await open()
      const again = await openThings(database)
      const lines = whole.subarray(0, bytes).toString().split('\n').slice(0, -1)
      const kept = lines.filter((line) => line.startsWith('{"_id"')).length
      expect(await again.find({}, { sort: { _id: 1 } })).toEqual(documents.slice(0, kept))
      const isTorn = bytes > 0 && !ends.includes(bytes - 1)
      expect(database.damageOf!('things')).toHaveLength(isTorn ? 1 : 0)
      if (isTorn)
        expect(database.damageOf!('things')[0]).toMatch(/^things\.db ended in half a line \(\d+ bytes\), which/)
      await database.close()
    }
  })

  test('a line in the middle that cannot be read is put aside, said, and all others stay', async () => {
    const before = await open()
    await (await openThings(before)).insertNew([{ _id: '1', revision: 0, status: 'new' }])
    await before.close()
    const damaged = '{"_id":"2","revi\0\0\0'
    await appendFile(join(dataDir, 'things.db'), `${damaged}\n{"_id":"3","revision":0,"status":"new"}\n{"_id":"4"`)
    const database = await open()
    const again = await openThings(database)
    expect((await again.find({}, { sort: { _id: 1 } })).map(({ _id }) => _id)).toEqual(['1', '3'])
    expect(database.damageOf!('things')).toEqual([
      expect.stringMatching(/half a line \(10 bytes\)/),
      'things.db is damaged: 1 line that could not be read was moved to things.db.damaged, of the records 2'
    ])
    expect(await readFile(join(dataDir, 'things.db.damaged'), 'utf8')).toBe(`${damaged}\n`)
    expect(await again.insertNew([{ _id: '2', revision: 0, status: 'new' }])).toEqual(new Set(['2']))
    await database.close()
    expect((await readdir(dataDir)).toSorted()).toEqual(['things.db', 'things.db.damaged'])
    expect((await stat(join(dataDir, 'things.db'))).mode & 0o777).toBe(0o600)
    expect((await (await openThings(await open())).find({})).length).toBe(3)
  })

  test('a key with a dot or a leading $ inside a value is INVALID', async () => {
    const things = await openThings(await open())
    const one: Thing = { _id: '1', revision: 0, status: 'new' }
    await expect(things.insertNew([{ ...one, detail: { 'a.b': 1 } }])).rejects.toMatchObject({ type: 'INVALID' })
    await things.insertNew([one])
    await expect(things.replaceEach([{ from: one, to: { ...one, detail: { $set: { a: 1 } } } }])).rejects.toMatchObject(
      { type: 'INVALID' }
    )
    expect(await things.findByIds(['1'])).toEqual([one])
  })

  test('is one for all of a process: what one user writes, the other reads, and the last close frees the folder', async () => {
    const [first, second] = await Promise.all([open(), open()])
    const [mine, theirs] = await Promise.all([openThings(first!), openThings(second!)])
    await mine!.insertNew([{ _id: '1', revision: 0, status: 'new' }])
    expect(await theirs!.count({})).toBe(1)
    await first!.close()
    await first!.close()
    expect(await theirs!.insertNew([{ _id: '2', revision: 0, status: 'new' }])).toEqual(new Set(['2']))
    await second!.close()
    expect(await readdir(dataDir)).toEqual(['things.db'])
    expect(await (await openThings(await open())).count({})).toBe(2)
  })

  test('is taken over from a process that has ended once for all of its users, and again when all had closed it', async () => {
    const [first, second] = await Promise.all([open(), open()])
    expect(first!.isTakenOver!('things')).toBe(true)
    expect(second!.isTakenOver!('things')).toBe(false)
    await first!.close()
    expect((await open()).isTakenOver!('things')).toBe(false)
    await Promise.all([...opened].map((database) => database.close()))
    expect((await open()).isTakenOver!('things')).toBe(true)
  })

  test('a folder that another process uses is a CONFLICT of one line that names it', async () => {
    const child = await otherProcess()
    const failure = await openDatabase({ mongoUrl: null, dataDir }).catch((error: Error) => error)
    expect(failure).toMatchObject({ type: 'CONFLICT' })
    expect((failure as Error).message).toMatch(
      new RegExp(`^DATA_DIR .*data is in use by another Longshore process \\(pid ${child.pid}\\).*$`)
    )
  })

  test('the folder of a killed process is free again after seconds, with all that it had confirmed', async () => {
    await killed(await otherProcess())
    const before = performance.now()
    const things = await openThings(await open())
    expect(performance.now() - before).toBeLessThan(30_000)
    expect(await things.findByIds(['theirs'])).toHaveLength(1)
  })

  test('rejects with DATABASE_UNAVAILABLE while its file cannot be written, and after that has lost nothing', async () => {
    const things = await openThings(await open())
    const file = join(dataDir, 'things.db')
    await rm(file)
    await mkdir(file)
    await expect(things.insertNew([{ _id: '1', revision: 0, status: 'new' }])).rejects.toMatchObject({
      type: 'DATABASE_UNAVAILABLE'
    })
    await expect(things.ping()).rejects.toMatchObject({ type: 'DATABASE_UNAVAILABLE' })
    await rmdir(file)
    await things.ping()
    await things.insertNew([{ _id: '2', revision: 0, status: 'new' }])
    expect((await readFile(file, 'utf8')).match(/"_id":"."/g)).toEqual(['"_id":"1"', '"_id":"2"'])
  })

  test('writes a file anew that was removed by hand, and changes nothing while it cannot', async () => {
    const things = await openThings(await open())
    const file = join(dataDir, 'things.db')
    await things.insertNew([{ _id: '1', revision: 0, status: 'new' }])
    await rm(file)
    await things.insertNew([{ _id: '2', revision: 0, status: 'new' }])
    expect((await readFile(file, 'utf8')).match(/"_id":"."/g)).toEqual(['"_id":"1"', '"_id":"2"'])
    await rm(file)
    await mkdir(file)
    await expect(things.insertNew([{ _id: '3', revision: 0, status: 'new' }])).rejects.toMatchObject({
      type: 'DATABASE_UNAVAILABLE'
    })
    await rmdir(file)
    expect(await things.findByIds(['3'])).toEqual([])
    await things.ping()
    expect((await readFile(file, 'utf8')).match(/"_id":"."/g)).toEqual(['"_id":"1"', '"_id":"2"'])
  })

  test('a process whose folder was taken over touches it no more', async () => {
    const database = await open()
    const things = await openThings(database)
    await rm(join(dataDir, 'longshore.lock'), { recursive: true })
    await writeFile(join(dataDir, 'longshore.owner'), 'theirs')
    const end = performance.now() + 60_000
    let refusal: unknown
    while (!refusal && performance.now() < end) refusal = await things.ping().catch((error) => error)
    expect(refusal).toMatchObject({ type: 'DATABASE_UNAVAILABLE' })
    await expect(things.insertNew([])).rejects.toMatchObject({ type: 'DATABASE_UNAVAILABLE' })
    await database.close()
    expect(await readFile(join(dataDir, 'longshore.owner'), 'utf8')).toBe('theirs')
  })

  test('moleculer-db runs on the NeDB that this package names', () => {
    const require = createRequire(import.meta.url)
    const theirs = createRequire(require.resolve('moleculer-db'))
    expect(theirs('@seald-io/nedb/package.json').version).toBe('4.1.2')
    expect(theirs.resolve('@seald-io/nedb')).toBe(require.resolve('@seald-io/nedb'))
  })

  test('a service with the mixin reads by moleculer-db, publishes only its own actions, and starts again', async () => {
    const broker = new ServiceBroker({ logger: false })
    const schema = {
      name: 'things',
      mixins: [collectionMixin({ name: 'things', indexes: [] })],
      methods: { openDatabase: () => openDatabase({ mongoUrl: null, dataDir }) },
      actions: {
        async list(this: WithCollection<Thing> & { _find: (ctx: unknown, params: object) => Promise<Thing[]> }) {
          await this.collection.insertNew([
            { _id: 'a', revision: 0, status: 'new' },
            { _id: 'b', revision: 0, status: 'stored' }
          ])
          return this._find(null, { query: { status: { $in: ['new'] } }, sort: ['-_id'] })
        }
      }
    }
    broker.createService(schema as never)
    for (let i = 0; i < 2; i++) {
      await broker.start()
      expect(await broker.call('things.list')).toEqual([{ _id: 'a', revision: 0, status: 'new' }])
      await expect(broker.call('things.create', { _id: 'c' })).rejects.toBeInstanceOf(Errors.ServiceNotFoundError)
      expect(Object.keys(broker.getLocalService('things').actions)).toEqual(['list'])
      await broker.stop()
    }
  })
})
