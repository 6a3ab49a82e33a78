import { realpath } from 'node:fs/promises'
import { startRclone } from '../support/rclone.ts'
import { type ContractServer, type Lacks, sftpContract } from './sftp.contract.ts'

const lacks: Lacks = {
  links: 'rclone leaves links out',
  pipes: 'rclone leaves pipes out',
  lineBreaks: 'rclone shows a line break as ␊',
  refusals: 'rclone replaces the file and takes the folder',
  heldFiles: 'rclone looks the file up by its path when it is read',
  endOfCutFile: 'rclone answers that the seek position is invalid'
}

async function open(): Promise<ContractServer> {
  const { host, port, username, password, hostKey, root, stop } = await startRclone()
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

sftpContract('rclone serve sftp', open, lacks)
