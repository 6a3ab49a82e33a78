import { realpath } from 'node:fs/promises'
import { startMinaSshd } from '../support/mina-sshd.ts'
import { type ContractServer, type Lacks, sftpContract } from './sftp.contract.ts'

const lacks: Lacks = {
  pipes: 'it sends no kind in the mode of one, and lists it as it lists a file',
  invalidNames: 'Java has no such path, so the whole folder cannot be listed'
}

async function open(): Promise<ContractServer> {
  const { host, port, username, password, hostKey, root, stop } = await startMinaSshd()
  const target = { host, port, username, password }
  return {
    target,
    wrongTarget: { ...target, password: 'not the secret' },
    hostKey,
    localRoot: await realpath(root),
    remoteRoot: '/',
    stop
  }
}

sftpContract('Apache MINA SSHD', open, lacks)
