/** A dry run of a folder that is too large for an answer, beside the other work of its scanner. */
import { readFile, realpath, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { type CrowdedSftp, startCrowdedSftp } from '../support/crowded-sftp.ts'
import { type Longshore, startLongshore, waitFor } from '../support/longshore.ts'
import { type Sshd, startSshd } from '../support/openssh.ts'

const FILES = 100_000
/** As many as an answer shows, see docs/rest.md. */
const SHOWN = 1_000

let crowded: CrowdedSftp
let sshd: Sshd
let longshore: Longshore

beforeAll(async () => {
  crowded = await startCrowdedSftp(FILES)
  sshd = await startSshd()
  longshore = await startLongshore({})
})
afterAll(async () => {
  await longshore?.stop()
  await sshd?.stop()
  await crowded?.stop()
})

/** The most memory that the process has had so far. */
async function peakMB(): Promise<number> {
  const status = await readFile(`/proc/${longshore.processes[0]!.pid}/status`, 'utf8')
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)![1]) / 1000
}

test('a dry run of 100,000 files answers the first thousand, changes nothing, and keeps no other server waiting', async () => {
  const { api } = longshore
  const taken = { interval: 86_400, settle: { checks: 1, seconds: 0 } }
  const root = await realpath(sshd.root)
  const { host, port, username, privateKey } = sshd
  await api.post('/servers', { name: 'quiet', host, port, username, privateKey, roots: [root], ...taken })
  await api.post('/servers', { name: 'huge', ...crowded.address, ...taken, enabled: false })
  await waitFor(async () => (await api.get('/servers/quiet')).lastScan, { what: 'the first scan' })
  const before = { peakMB: await peakMB(), at: performance.now() }

  let isOver = false
  const running = api.post('/servers/huge/scan?dryRun=true').finally(() => {
    isOver = true
  })
  const others: number[] = []
  for (let index = 0; !isOver && index < 5; index++) {
    await writeFile(join(root, `${index}.csv`), `${index}`)
    const start = performance.now()
    await api.post('/servers/quiet/scan?wait=true')
    await waitFor(async () => (await api.files('&serverId=quiet&status=notified')).length === index + 1, {
      what: `the file ${index} of another server`,
      explain: longshore.output
    })
    others.push(Math.round(performance.now() - start))
  }
  const answer = await running
  const tookMs = Math.round(performance.now() - before.at)
  const grownMB = Math.round((await peakMB()) - before.peakMB)
  console.log(
    `${FILES} files: ${tookMs} ms, ${grownMB} MB more at the peak; beside it files took ${others.join(', ')} ms`
  )

  expect(answer).toMatchObject({ dryRun: true, listed: FILES, new: FILES, leftOut: FILES - SHOWN })
  expect(answer.items).toHaveLength(SHOWN)
  expect(crowded.connections).toEqual({ made: 1, peak: 1 })
  expect(await api.files('&serverId=huge')).toEqual([])
  expect(others.length).toBeGreaterThan(0)
  for (const one of others) expect(one).toBeLessThan(tookMs)
  // All paths with their reasons would be several times this.
  expect(grownMB).toBeLessThan(100)

  const why = await api.get('/servers/huge/explain?path=/099999')
  expect(why).toMatchObject({ path: '/099999', size: 10 })
  expect(crowded.connections).toEqual({ made: 2, peak: 1 })
})
