import { s3Store } from '../../drivers/store/s3.ts'
import { startMinio } from '../support/minio.ts'
import { s3FaultCases } from './s3-store.cases.ts'
import { storeContract } from './store.contract.ts'

storeContract('MinIO', async () => {
  const server = await startMinio()
  const { endpoint, accessKey, secretKey } = server
  return {
    // Dot segments, empty ones, and names that its file system cannot hold.
    mayRefuse: (key) =>
      key
        .split('/')
        .some((name, at) => /^\.{1,2}$/.test(name) || (name === '' && at > 0) || Buffer.byteLength(name) > 255),
    store: s3Store({ endpoint, accessKey, secretKey, bucket: 'contract' }),
    dispose: () => server.stop()
  }
})

s3FaultCases('MinIO', startMinio)
