/**
 * Longshore as it runs embedded: all seven services, the registry and the records in NeDB, announcements in the journal.
 * Timed from the registration of the server, whose first scan begins at once, until the last file is `notified`. Rounds
 * before are the same files, of servers of their own.
 */
import { loadConfig } from '../config.ts'
import { apiPort, createNode, stopNode } from '../node.ts'
import { answerParent, type Job, type Measurement, measureHere } from './measurement.ts'

answerParent(async (job: Job): Promise<Measurement> => {
  const config = loadConfig({
    DATA_DIR: job.dataDir,
    API_PORT: '0',
    ALLOW_NETWORKS: '127.0.0.0/8',
    LOG_LEVEL: 'warn',
    S3_ENDPOINT: job.s3.endpoint,
    S3_ACCESS_KEY: job.s3.accessKey,
    S3_SECRET_KEY: job.s3.secretKey,
    S3_BUCKET: job.s3.bucket
  })
  const announced = countAnnounced()
  const broker = await createNode(config, { middlewares: [announced.middleware] })
  await broker.start()
  const api = `http://127.0.0.1:${apiPort(broker)}/api/v1`
  const { host, username, privateKey, folder } = job.sftp
  const ingest = async (name: string, keyTemplate: string) => {
    const all = announced.next(job.files)
    const response = await fetch(`${api}/servers`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        ...{ name, keyTemplate, host, port: job.sftp.port, username, privateKey },
        roots: [folder],
        interval: 3600,
        settle: { checks: 1, seconds: 0 },
        checksum: job.checksum
      })
    })
    if (response.status !== 201) throw new Error(`the server was not registered: ${await response.text()}`)
    await all
  }
  for (let round = 1; round <= job.roundsBefore; round++) await ingest(`before-${round}`, `before-${round}/{path}`)
  process.send!('begins')
  const measured = await measureHere(() => ingest('bench', '{server}/{path}'))
  const { files } = await broker.call<{ files: Record<string, { count: number; bytes: number }> }>('files.stats')
  const { count, bytes } = files.notified!
  const wanted = job.files * (job.roundsBefore + 1)
  if (count !== wanted || bytes !== wanted * job.sizeBytes) throw new Error(`notified: ${count}, ${bytes} bytes`)
  await stopNode(broker)
  return measured
})

/** Counts by the action that makes files `notified`, since asking for the numbers would cost what is measured. */
function countAnnounced() {
  let missing = 0
  let resolve = () => {}
  const middleware = {
    localAction(next: (ctx: { params: { holds: unknown[] } }) => Promise<unknown>, action: { name: string }) {
      if (action.name !== 'files.announced') return next
      return async (ctx: { params: { holds: unknown[] } }) => {
        const answer = await next(ctx)
        missing -= ctx.params.holds.length
        if (missing <= 0) resolve()
        return answer
      }
    }
  }
  return {
    /** Resolves when so many more are announced. */
    next(files: number): Promise<void> {
      missing = files
      return new Promise((done) => {
        resolve = done
      })
    },
    middleware: middleware as never
  }
}
