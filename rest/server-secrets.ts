/** The secrets of a server on their way in: looked at while they can be read, then sealed. */
import type { SealedSecret } from '../domain/sealed.ts'
import type { SecretField, ServerRecord } from '../domain/server.ts'
import type { ServerSecrets } from '../domain/server-input.ts'
import { seal, unseal } from '../drivers/secrets.ts'
import { readPrivateKey } from '../drivers/sftp/private-key.ts'
import { refuse } from './request.ts'

type SealedSecrets = ServerRecord['secrets']

/**
 * `given`, sealed for the server `id`; `saved` is what it has and keeps where nothing else is given. INVALID, naming
 * `privateKey` or `passphrase`, for a key that would be of no use.
 */
export function sealedSecrets(key: Buffer, id: string, given: ServerSecrets, saved: SealedSecrets = {}): SealedSecrets {
  const context = (field: SecretField) => `${id}:${field}`
  const open = (field: SecretField) => (saved[field] ? opened(key, saved[field], context(field)) : undefined)
  if (given.privateKey !== undefined || given.passphrase !== undefined) {
    if (given.privateKey === undefined && !saved.privateKey) refuse('passphrase', 'goes with privateKey')
    const privateKey = given.privateKey ?? open('privateKey')
    if (privateKey !== undefined) expectUsable(privateKey, given.passphrase ?? open('passphrase'))
  }
  const fields = Object.entries(given) as [SecretField, string][]
  return Object.fromEntries(fields.map(([field, secret]) => [field, seal(key, secret, context(field))]))
}

function expectUsable(privateKey: string, passphrase?: string): void {
  const read = readPrivateKey(privateKey, passphrase)
  if ('fault' in read) refuse(read.fault.field, read.fault.message)
}

/** undefined for one that was sealed with another key: it is being replaced, or the first connection says so. */
function opened(key: Buffer, sealed: SealedSecret, context: string): string | undefined {
  try {
    return unseal(key, sealed, context)
  } catch {
    return undefined
  }
}
