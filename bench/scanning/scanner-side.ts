/** `scanner` in a process of its own, as in production; the server that it lists is a real one or a scripted one. */
import { ServiceBroker, type ServiceSchema } from 'moleculer'
import { loadConfig } from '../../config.ts'
import { connectSftp } from '../../drivers/sftp/connection.ts'
import type { ConnectOptions, Sftp, SftpTarget } from '../../drivers/sftp/sftp.ts'
import { brokerOptions } from '../../moleculer.config.ts'
import { scannerService } from '../../services/scanner.service.ts'
import { keepHeapSmall } from '../../small-heap.ts'
import { type ListingCost, millionFiles, simulatedServer } from './scripted-servers.ts'
import { answer, resetUsage, usage } from './side.ts'

export interface ScannerJob {
  dataDir: string
  natsUrl: string
  nodeID: string
  encryptionKey: string
  /** Hosts whose name begins with `simulated` cost this; `million` is a scripted server of a million files. */
  cost?: ListingCost
}

keepHeapSmall({ services: ['scanner'] })
let broker: ServiceBroker

answer({
  async start({ dataDir, natsUrl, nodeID, encryptionKey, cost }: ScannerJob) {
    const environment = {
      DATA_DIR: dataDir,
      ENCRYPTION_KEY: encryptionKey,
      ALLOW_NETWORKS: '127.0.0.0/8',
      LOG_LEVEL: 'error'
    }
    const config = { ...loadConfig(environment), transporter: natsUrl }
    const openSftp = async (target: SftpTarget, options: ConnectOptions): Promise<Sftp> => {
      if (target.host === 'million') return millionFiles()
      if (target.host.startsWith('simulated')) return simulatedServer(cost!, options.signal)
      return connectSftp(target, options)
    }
    broker = new ServiceBroker({ ...brokerOptions(config), nodeID })
    broker.createService({ mixins: [scannerService(config)], methods: { openSftp } } as unknown as ServiceSchema)
    await broker.start()
  },
  /** Resolves when it knows where the others are, again after a restart of theirs. */
  async meet() {
    await broker.waitForServices(['servers', 'files'], 30_000)
  },
  reset: resetUsage,
  usage,
  /** The bare listing of one folder, without Longshore's scan. */
  async list({ target, folder }: { target: SftpTarget; folder: string }) {
    const sftp = await connectSftp(target, { verifyHostKey: async () => {}, resolveAddress: async (host) => host })
    let entries = 0
    for await (const page of sftp.list(folder)) entries += page.length
    await sftp.close()
    return entries
  },
  async stop() {
    await broker?.stop()
  }
})
