/**
 * Secrets at rest and on the wire: AES-256-GCM, a data key for each secret, wrapped by the key of the environment
 * (NIST SP 800-38D: a 96-bit random iv for each use of a key). The additional data ties a secret to its record and
 * field, so that a copy into another record does not open.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto'
import { IngestError } from '../domain/errors.ts'
import type { SealedSecret } from '../domain/sealed.ts'

const IV_BYTES = 12
const TAG_BYTES = 16

function encrypt(key: Buffer, plain: Buffer, context: string): string {
  const iv = randomBytes(IV_BYTES)
  const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(Buffer.from(context))
  const encrypted = Buffer.concat([cipher.update(plain), cipher.final()])
  return Buffer.concat([iv, cipher.getAuthTag(), encrypted]).toString('base64')
}

function decrypt(key: Buffer, sealed: string, context: string): Buffer {
  const bytes = Buffer.from(sealed, 'base64')
  const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, IV_BYTES), { authTagLength: TAG_BYTES })
  decipher.setAAD(Buffer.from(context)).setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
  return Buffer.concat([decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES)), decipher.final()])
}

/** Names a key without telling it. */
export function keyIdOf(key: Buffer): string {
  return createHash('sha256').update(key).digest('base64').slice(0, 8)
}

/** `context` is the record's id and the field, such as `"<id>:password"`. */
export function seal(key: Buffer, secret: string, context: string): SealedSecret {
  const dataKey = randomBytes(32)
  const value = encrypt(dataKey, Buffer.from(secret), context)
  const sealed = { keyId: keyIdOf(key), dataKey: encrypt(key, dataKey, context), value }
  dataKey.fill(0)
  return sealed
}

/** Throws SECRET_UNREADABLE when the key is another one or the secret was moved or altered. */
export function unseal(key: Buffer, sealed: SealedSecret, context: string): string {
  try {
    const dataKey = decrypt(key, sealed.dataKey, context)
    const secret = decrypt(dataKey, sealed.value, context).toString('utf8')
    dataKey.fill(0)
    return secret
  } catch (cause) {
    const other = sealed.keyId === keyIdOf(key) ? '' : ': it was sealed with another ENCRYPTION_KEY'
    throw new IngestError('SECRET_UNREADABLE', `a stored secret cannot be opened${other}; set it again`, { cause })
  }
}
