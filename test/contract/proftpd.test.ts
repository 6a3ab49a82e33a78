import { realpath } from 'node:fs/promises'
import { startProftpd } from '../support/proftpd.ts'
import { type ContractServer, type Lacks, sftpContract } from './sftp.contract.ts'

const lacks: Lacks = {
  lstatOfLinks: 'LSTAT tells of what the link leads to, unless that is missing'
}

async function open(): Promise<ContractServer> {
  const { host, port, username, password, hostKey, root, stop } = await startProftpd()
  const target = { host, port, username, password }
  const localRoot = await realpath(root)
  return {
    target,
    wrongTarget: { ...target, password: 'not the secret' },
    hostKey,
    localRoot,
    remoteRoot: localRoot,
    stop
  }
}

sftpContract('ProFTPD', open, lacks)
