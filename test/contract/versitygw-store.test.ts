import { s3Store } from '../../drivers/store/s3.ts'
import { startVersitygw } from '../support/minio.ts'
import { s3FaultCases } from './s3-store.cases.ts'
import { storeContract } from './store.contract.ts'

storeContract('Versitygw', async () => {
  const server = await startVersitygw()
  const { endpoint, accessKey, secretKey } = server
  return {
    // It keeps an object as a file of that name, so `a` and `a/b` exclude each other and a name may have 255 bytes.
    mayRefuse: (key) => key.includes('/'),
    cannotHold: (key) => key.split('/').some((name) => /^\.{0,2}$/.test(name) || Buffer.byteLength(name) > 255),
    beginsInAnyCase: true,
    store: s3Store({ endpoint, accessKey, secretKey, bucket: 'contract' }),
    dispose: () => server.stop()
  }
})

s3FaultCases('Versitygw', startVersitygw)
