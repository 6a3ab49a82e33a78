/** Services in processes of their own, several of a kind: what they agree on over NATS and the database alone. */
import { chmod, mkdir, readdir, realpath, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { ServiceBroker } from 'moleculer'
import { newSshKey } from '../../demo/ssh-key.ts'
import type { Consumer } from '../support/consumer.ts'
import { type Backends, type Longshore, waitFor } from '../support/longshore.ts'
import { type Sshd, startSshd } from '../support/openssh.ts'
import { temporaryFolder } from '../support/process.ts'
import type { Json } from '../support/rest.ts'
import { startScriptedSftp } from '../support/scripted-sftp.ts'
import { startWorld, type World } from '../support/world.ts'

const KIB = 1024
const atOnce = { settle: { checks: 1, seconds: 0 }, interval: 86_400 }

let world: World
let backends: Backends
let longshore: Longshore
let consumer: Consumer

beforeAll(async () => {
  world = await startWorld({
    counts: { transfer: 0, scanner: 2 },
    isImpatient: true,
    // So that the copies of many small files take longer than connecting does.
    env: { BANDWIDTH: String(2048 * KIB) }
  })
  ;({ backends, longshore, consumer } = world)
  const missing = async () => (await longshore.api.request('GET', '/health/ready')).body.missing
  await until('all but the copies to be ready', async () => (await missing()).join() === 'transfer')
})
afterAll(() => world?.stop())

const until = <T>(what: string, condition: () => Promise<T> | T) =>
  waitFor(condition, { what, explain: () => longshore.output() })

async function newFolder(name: string): Promise<string> {
  const folder = join(backends.root, name)
  await mkdir(folder)
  return folder
}

// The first one: no worker may run yet.
describe('servers of a higher priority', () => {
  test('go first when twice as many servers wait as there are places', async () => {
    const { api } = longshore
    const content = Buffer.alloc(128 * KIB, 'x')
    for (let index = 0; index < 20; index++) {
      for (const priority of [0, 5]) {
        const name = `priority-${priority}-${index}`
        const folder = await newFolder(name)
        await writeFile(join(folder, 'a.bin'), content)
        await api.post('/servers', backends.server({ ...atOnce, name, priority, roots: [folder] }))
      }
    }
    const count = async (status: string) => (await api.get('/stats')).files[status].count
    await until('all 40 files to wait', async () => (await count('pending')) === 40)
    await longshore.add('transfer')
    await until('all 40 files to be announced', async () => (await count('notified')) === 40)
    const files: Json[] = await Promise.all((await api.files()).map(({ id }) => api.get(`/files/${id}`)))
    const begun = files
      .map(({ serverName, history }) => {
        const { at } = history.find(({ status }: Json) => status === 'downloading')
        return { isUrgent: serverName.startsWith('priority-5'), at: Date.parse(at) }
      })
      .sort((a, b) => a.at - b.at)
    // There are 16 places. All were connected to at the same time, so the last of them are not in order.
    expect(begun.slice(0, 12).map(({ isUrgent }) => isUrgent)).toEqual(Array(12).fill(true))
    const rankOf = (urgent: boolean) =>
      begun.reduce((sum, { isUrgent }, rank) => (isUrgent === urgent ? sum + rank : sum), 0) / 20
    expect(rankOf(true)).toBeLessThan(12)
    expect(rankOf(false)).toBeGreaterThan(27)
  })
})

describe('a node of its own that listens', () => {
  const heard: Json[] = []
  const progress: Json[] = []
  let listener: ServiceBroker

  beforeAll(async () => {
    listener = new ServiceBroker({
      namespace: 'longshore',
      nodeID: 'alarm',
      logger: false,
      transporter: { type: 'NATS', options: { url: backends.env.TRANSPORTER } },
      // As often as the others expect them: a node that they take for gone hears nothing.
      heartbeatInterval: 2,
      heartbeatTimeout: 6
    })
    listener.createService({
      name: 'alarm',
      events: {
        'server.stopped'(ctx: { params: Json }) {
          heard.push(ctx.params)
        },
        'file.progress'(ctx: { params: Json }) {
          progress.push(ctx.params)
        }
      }
    })
    await listener.start()
    const nodes = () => longshore.api.get('/nodes')
    await until('the node to be known', async () => JSON.stringify(await nodes()).includes('"alarm"'))
  })
  afterAll(async () => {
    await listener?.stop()
  })

  const alarmsOf = (name: string) => heard.filter(({ serverName }) => serverName === name)
  const isStopped = async (name: string) => (await longshore.api.get(`/servers/${name}`)).state === 'stopped'

  test('hears once that credentials are refused, after three logins at most', async () => {
    const folder = await temporaryFolder('refusing')
    const server = await startScriptedSftp(folder.path)
    const { host, port, username } = server
    const password = 'not-the-fine-password'
    await longshore.api.post('/servers', { name: 'refusing', host, port, username, password, ...atOnce, interval: 1 })
    const [alarm] = await until('the alarm', () => (alarmsOf('refusing').length > 0 ? alarmsOf('refusing') : null))
    expect(alarm).toMatchObject({ serverName: 'refusing', error: { type: 'SFTP_AUTH_FAILED' } })
    expect(alarm.error.message).toMatch(/\w/)
    expect(JSON.stringify(alarm)).not.toContain(password)
    expect(await isStopped('refusing')).toBe(true)
    // Whoever asks for a scan meanwhile is refused, and no login more is tried.
    await longshore.api.request('POST', '/servers/refusing/scan?wait=true')
    expect(server.logins).toBeLessThanOrEqual(3)
    expect(alarmsOf('refusing')).toHaveLength(1)
    await server.stop()
    await folder.remove()
  })

  test('hears how far a copy has come, as its record says it, and once a second at most', async () => {
    const sizeBytes = 12 * 1024 * KIB
    const folder = await newFolder('progress')
    await writeFile(join(folder, 'large.bin'), Buffer.alloc(sizeBytes))
    const { id: serverId } = await longshore.api.post(
      '/servers',
      backends.server({ ...atOnce, name: 'progress', roots: [folder] })
    )
    const recorded = new Map<number, Json>()
    const { id } = await until('its end', async () => {
      const [file] = await longshore.api.files('&serverId=progress')
      if (file?.progress) recorded.set(file.progress.bytes, file.progress)
      return file?.status === 'notified' ? file : null
    })
    const told = progress.filter((one) => one.id === id)
    const { history } = await longshore.api.get(`/files/${id}`)
    const [begun, ended] = ['downloading', 'uploaded'].map((status) =>
      Date.parse(history.find((entry: Json) => entry.status === status).at)
    )
    expect(told.length).toBeGreaterThanOrEqual(3)
    expect(told.length).toBeLessThanOrEqual((ended! - begun!) / 1_000)
    expect(told.map(({ bytes }) => bytes)).toEqual(told.map(({ bytes }) => bytes).toSorted((a, b) => a - b))
    expect(recorded.size).toBeGreaterThanOrEqual(2)
    for (const known of recorded.values()) {
      expect(told).toContainEqual({ id, serverId, size: sizeBytes, ...known })
    }
    // The limit of this worker is 2 MiB a second.
    for (const { bytesPerSecond } of told.slice(1)) expect(bytesPerSecond).toBeLessThan(2.6 * 1024 * KIB)
  })

  test('hears once that a host key changed, before anything secret was shown to it', async () => {
    const first = await startSshd()
    const { host, port, username, privateKey, root } = first
    const folder = await realpath(root)
    const fields = { name: 'changed', host, port, username, privateKey, roots: [folder], ...atOnce, interval: 1 }
    await longshore.api.post('/servers', fields)
    await until('a scan', async () => (await longshore.api.get('/servers/changed')).lastScan)
    await first.stop()
    const second = await startSshd({ port })
    const [alarm] = await until('the alarm', () => (alarmsOf('changed').length > 0 ? alarmsOf('changed') : null))
    expect(alarm.error.type).toBe('SFTP_HOST_KEY_MISMATCH')
    expect(alarm.error.message).toContain(second.hostKey)
    expect(await isStopped('changed')).toBe(true)
    expect(second.log()).not.toMatch(/Failed publickey|Accepted|userauth-request/)
    expect(alarmsOf('changed')).toHaveLength(1)
    await second.stop()
  })
})

describe('the step after the upload, with two scanners and two workers', () => {
  let strict: Sshd
  let keys: { path: string; remove(): Promise<void> }
  let login: { username: string; privateKey: string }

  // Root may write everywhere, so there the server lets somebody in who may not.
  beforeAll(async () => {
    await longshore.add('transfer')
    keys = await temporaryFolder('keys')
    const isRoot = process.getuid?.() === 0
    const key = newSshKey()
    await writeFile(join(keys.path, 'authorized_keys'), `${key.public}\n`)
    await chmod(keys.path, 0o755)
    const asNobody = ['Match User nobody', `AuthorizedKeysFile ${join(keys.path, 'authorized_keys')}`]
    strict = await startSshd(isRoot ? { extraConfig: [...asNobody, 'ForceCommand internal-sftp'] } : {})
    await chmod(strict.root, 0o755)
    login = isRoot ? { username: 'nobody', privateKey: key.private } : strict
  })
  afterAll(async () => {
    await strict?.stop()
    await keys?.remove()
  })

  test.each([
    ['delete', 'delete', []],
    ['move', { move: 'done' }, Array.from({ length: 20 }, (_, index) => `done/${index}.csv`).sort()]
  ])(
    '%s is done once a file, and where the folder does not permit it, once it does',
    async (name, afterUpload, left) => {
      const { api } = longshore
      const folder = join(await realpath(strict.root), name)
      await mkdir(folder)
      for (let index = 0; index < 20; index++) await writeFile(join(folder, `${index}.csv`), `${name} ${index}`)
      await chmod(folder, 0o555)
      const { host, port } = strict
      const address = { host, port, username: login.username, privateKey: login.privateKey, roots: [folder] }
      await api.post('/servers', { name, ...address, ...atOnce, interval: 1, maxConnections: 4, afterUpload })
      const files = () => api.files(`&serverId=${name}`)
      const refused = await until('all files to be refused', async () => {
        const found = await files()
        return found.length === 20 && found.every(({ afterUpload: step }) => step?.error) ? found : null
      })
      for (const { status, attempts, afterUpload: step } of refused) {
        expect({ status, attempts }).toEqual({ status: 'notified', attempts: 1 })
        expect(step).toMatchObject({ status: 'due', error: { type: 'SFTP_PERMISSION_DENIED' } })
      }
      expect(await api.get(`/servers/${name}`)).toMatchObject({ state: 'active', lastError: null })
      expect(await readdir(folder)).toHaveLength(20)

      await chmod(folder, 0o777)
      const done = await until('all files to be cleared', async () => {
        const found = await files()
        return found.every(({ afterUpload: step }) => step.status === 'done') ? found : null
      })
      // By tries of its own: the copy was one.
      for (const { attempts, afterUpload: step } of done) {
        expect(step.attempts).toBeGreaterThan(1)
        expect(attempts).toBe(1)
      }
      expect(done.map(({ status, version }) => `${status} ${version}`)).toEqual(Array(20).fill('notified 1'))
      const names = await readdir(folder, { recursive: true, withFileTypes: true })
      const paths = names.flatMap((one) =>
        one.isFile() ? [join(one.parentPath, one.name).slice(folder.length + 1)] : []
      )
      expect(paths.sort()).toEqual(left)
      for (const { id } of done) {
        const { history } = await api.get(`/files/${id}`)
        expect(history.filter(({ reason }: Json) => /^(deleted|moved|gone)/.test(reason ?? ''))).toHaveLength(1)
        expect(history.filter(({ status }: Json) => status === 'uploaded')).toHaveLength(1)
      }
      expect(consumer.messages.filter(({ event }) => event.data.serverName === name)).toHaveLength(20)
    }
  )
})
