/** From a server's record, with its sealed secrets, to a connection. Plaintext secrets exist only in here and below. */
import { IngestError } from '../domain/errors.ts'
import { isPassing } from '../domain/patience.ts'
import type { SealedSecret } from '../domain/sealed.ts'
import type { SecretField, ServerAddress } from '../domain/server.ts'
import { unseal } from '../drivers/secrets.ts'
import type { ConnectOptions, Sftp, SftpTarget } from '../drivers/sftp/sftp.ts'

/** What `servers` hands to a worker: it may cross the network, because its secrets are sealed. */
export interface ServerTarget extends ServerAddress {
  id: string
  secrets: Partial<Record<SecretField, SealedSecret>>
}

export interface Connector {
  encryptionKey: Buffer
  resolveAddress(host: string): Promise<string>
  /** Connects with plaintext secrets. */
  open(target: SftpTarget, options: ConnectOptions): Promise<Sftp>
  /** Pins the key where none is pinned yet; answers the pinned one. */
  pinHostKey(serverId: string, fingerprint: string): Promise<string>
}

/** Connects and authenticates, after the host key was found right. Rejects with SFTP_*, ADDRESS_DENIED, SECRET_UNREADABLE. */
export async function connectToServer(connector: Connector, server: ServerTarget, signal?: AbortSignal): Promise<Sftp> {
  const { host, port, username, algorithms } = server
  const target: SftpTarget = { host, port, username, ...(algorithms ? { algorithms } : {}) }
  for (const [field, sealed] of Object.entries(server.secrets)) {
    if (sealed) target[field as SecretField] = unseal(connector.encryptionKey, sealed, `${server.id}:${field}`)
  }
  /** Where our own services are away that is told as it is: it is no fault of the server that is connected to. */
  async function pin(fingerprint: string): Promise<string> {
    try {
      return await connector.pinHostKey(server.id, fingerprint)
    } catch (error) {
      if (!isPassing(error)) throw error
      const message = `the host key of ${host}:${port} could not be pinned: ${(error as Error).message}`
      throw new IngestError('DATABASE_UNAVAILABLE', message, { cause: error })
    }
  }
  return connector.open(target, {
    signal,
    resolveAddress: connector.resolveAddress,
    async verifyHostKey(fingerprint) {
      const pinned = server.hostKey ?? (await pin(fingerprint))
      if (pinned === fingerprint) return
      const message = `the host key of ${server.host}:${server.port} is ${fingerprint}, not the pinned ${pinned}; if the partner changed it, approve the new one`
      throw new IngestError('SFTP_HOST_KEY_MISMATCH', message, { data: { seen: fingerprint, pinned } })
    }
  })
}
