import { realpath } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals'
import { checkEmbedded } from '../support/embedded-checker.ts'
import { type Longshore, startLongshore, waitFor } from '../support/longshore.ts'
import { type S3Server, startMinio } from '../support/minio.ts'
import { type Sshd, startSshd } from '../support/openssh.ts'
import { type FaultyProxy, startProxy } from '../support/proxy.ts'
import { type Random, randomOf } from '../support/random.ts'
import { writeSource } from '../support/source-files.ts'

jest.setTimeout(300_000)

const KiB = 1024
const MiB = 1024 * KiB
const KILLS = 6

interface Installation {
  sshd: Sshd
  proxy: FaultyProxy
  longshore: Longshore
  root: string
  random: Random
  s3?: { minio: S3Server; bucket: string }
  written: number
  stop(): Promise<void>
}

/** An embedded process, its server behind a proxy. */
async function install(seed: number, minio?: S3Server): Promise<Installation> {
  const sshd = await startSshd()
  const proxy = await startProxy({ target: { host: '127.0.0.1', port: sshd.port } })
  const bucket = 'longshore-files'
  const { endpoint = '', accessKey = '', secretKey = '' } = minio ?? {}
  const s3 = { S3_ENDPOINT: endpoint, S3_ACCESS_KEY: accessKey, S3_SECRET_KEY: secretKey, S3_BUCKET: bucket }
  const longshore = await startLongshore({ env: minio ? s3 : {} })
  const root = await realpath(sshd.root)
  const { host, username, privateKey } = sshd
  // What a killed process held is free again after a lease: the next one must not have to wait for it to be killed, too.
  const policy = { roots: [root], interval: 1, settle: { checks: 1, seconds: 0 }, maxConnections: 2 * KILLS }
  await longshore.api.post('/servers', { name: 'partner', host, port: proxy.port, username, privateKey, ...policy })
  return {
    ...{ sshd, proxy, longshore, root, random: randomOf(seed), written: 0 },
    s3: minio && { minio, bucket },
    async stop() {
      await longshore.stop()
      await proxy.close()
      await sshd.stop()
      await minio?.stop()
    }
  }
}

/** Small files, and one that is cut into parts. */
async function fill(place: Installation): Promise<void> {
  const round = place.written
  for (let index = 0; index < 25; index++) await writeSource(place.root, `${round}/${index}`, index * 1009)
  await writeSource(place.root, `${round}/large`, 24 * MiB + round)
  place.written += 26
}

/**
 * Its process is killed over and over: when so many bytes more have come from the server, which is anywhere between
 * the first handshake and the middle of a large file, or before it has begun at all.
 */
async function killOften(place: Installation): Promise<void> {
  const { longshore, proxy, random } = place
  for (let kill = 0; kill < KILLS; kill++) {
    await fill(place)
    const from = proxy.received
    const bytes = [random.between(64 * KiB, 20 * MiB), random.between(1, 64 * KiB), 0][kill % 3]!
    await waitFor(() => proxy.received >= from + bytes, {
      timeoutMs: 60_000,
      what: `${bytes} bytes to come`,
      everyMs: 1,
      explain: longshore.output
    })
    await longshore.processes[0]!.stop('SIGKILL')
    expect(await longshore.processes[0]!.exited).toEqual({ code: null, signal: 'SIGKILL' })
    await longshore.restart()
  }
}

async function settle({ longshore, written }: Installation): Promise<void> {
  const { api } = longshore
  await waitFor(async () => (await api.get('/stats')).files.notified.count === written, {
    timeoutMs: 90_000,
    what: `${written} files to be notified`,
    explain: async () => {
      const open = (await api.files()).find(({ status }) => status !== 'notified')
      const { files } = await api.get('/stats')
      return `${JSON.stringify(files)}\n${JSON.stringify(open && (await api.get(`/files/${open.id}`)))}\n${longshore.output()}`
    }
  })
}

describe('the embedded process, killed over and over', () => {
  let onDisk: Installation
  let onS3: Installation

  // Side by side: most of it is waiting for leases.
  beforeAll(async () => {
    onDisk = await install(1)
    onS3 = await install(2, await startMinio())
    await Promise.all([onDisk, onS3].map((place) => killOften(place).then(() => settle(place))))
  })
  afterAll(async () => {
    await onDisk?.stop()
    await onS3?.stop()
  })

  test.each([
    ['plain files', () => onDisk],
    ['MinIO', () => onS3]
  ])(
    'with its objects in %s, loses nothing: one record, one object, one id of a message for each file',
    async (_store, of) => {
      const { longshore, root, s3, sshd, written } = of()
      const canaries = [sshd.privateKey.trim().split('\n')[2]!, ...(s3 ? [s3.minio.secretKey] : [])]
      const verdict = await checkEmbedded({ longshore, root, s3, canaries })
      expect(verdict.problems).toEqual([])
      expect(verdict.files).toBe(written)
    }
  )
})
