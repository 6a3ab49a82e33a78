/** The straightforward way: `createReadStream` into `putObject`, the libraries as they come, eight files at a time. */
import { Client as S3 } from 'minio'
import ssh2, { type SFTPWrapper } from 'ssh2'
import { answerParent, type Job, measureHere } from './measurement.ts'

const AT_ONCE = 8

answerParent((job: Job) =>
  measureHere(async () => {
    const client = new ssh2.Client()
    const { host, port, username, privateKey, folder } = job.sftp
    await new Promise((resolve, reject) => {
      client.once('ready', () => resolve(undefined)).once('error', reject)
      client.connect({ host, port, username, privateKey })
    })
    const sftp = await new Promise<SFTPWrapper>((resolve, reject) =>
      client.sftp((error, opened) => (error ? reject(error) : resolve(opened)))
    )
    const { hostname, port: storePort } = new URL(job.s3.endpoint)
    const { accessKey, secretKey, bucket } = job.s3
    const store = new S3({ endPoint: hostname, port: Number(storePort), useSSL: false, accessKey, secretKey })
    await store.makeBucket(bucket)
    const names = await new Promise<{ name: string; size: number }[]>((resolve, reject) =>
      sftp.readdir(folder, (error, list) =>
        error ? reject(error) : resolve(list.map(({ filename, attrs }) => ({ name: filename, size: attrs.size })))
      )
    )
    const copy = async () => {
      for (let file = names.pop(); file; file = names.pop()) {
        await store.putObject(bucket, file.name, sftp.createReadStream(`${folder}/${file.name}`), file.size)
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, copy))
    client.end()
  })
)
