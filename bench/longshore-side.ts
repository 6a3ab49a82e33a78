/**
 * Longshore as it runs embedded: all seven services, the registry and the records in NeDB, announcements in the journal.
 * Timed from the registration of the server, whose first scan begins at once, until the last file is `notified`.
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
  const announced = countAnnounced(job.files)
  const broker = await createNode(config, { middlewares: [announced.middleware] })
  await broker.start()
  const port = apiPort(broker)
  const { host, username, privateKey, folder } = job.sftp
  const server = {
    name: 'bench',
    ...{ host, port: job.sftp.port, username, privateKey },
    roots: [folder],
    interval: 3600,
    settle: { checks: 1, seconds: 0 },
    checksum: job.checksum
  }
  const measured = await measureHere(async () => {
    const response = await fetch(`http://127.0.0.1:${port}/api/v1/servers`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(server)
    })
    if (response.status !== 201) throw new Error(`the server was not registered: ${await response.text()}`)
    await announced.all
  })
  const { files } = await broker.call<{ files: Record<string, { count: number; bytes: number }> }>('files.stats')
  const { count, bytes } = files.notified!
  if (count !== job.files || bytes !== job.files * job.sizeBytes) throw new Error(`notified: ${count}, ${bytes} bytes`)
  await stopNode(broker)
  return measured
})

/** Counts by the action that makes files `notified`, since asking for the numbers would cost what is measured. */
function countAnnounced(wanted: number) {
  let count = 0
  let resolve = () => {}
  const all = new Promise<void>((done) => {
    resolve = done
  })
  const middleware = {
    localAction(next: (ctx: { params: { holds: unknown[] } }) => Promise<unknown>, action: { name: string }) {
      if (action.name !== 'files.announced') return next
      return async (ctx: { params: { holds: unknown[] } }) => {
        const answer = await next(ctx)
        count += ctx.params.holds.length
        if (count >= wanted) resolve()
        return answer
      }
    }
  }
  return { all, middleware: middleware as never }
}
