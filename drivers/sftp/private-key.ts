/** Private keys as operators give them. What is wrong with one is said by its field, with nothing of the key. */
import ssh2, { type ParsedKey } from 'ssh2'

export interface PrivateKeyFault {
  field: 'privateKey' | 'passphrase'
  message: string
}

/**
 * ssh2 turns a passphrase into a key on the event loop, 10 to 20 ms a round, and the number of rounds is the key's own.
 * ssh-keygen takes 16 or 24.
 */
const MAX_ROUNDS = 100

/** The key, opened; or what is wrong. */
export function readPrivateKey(text: string, passphrase?: string): { key: ParsedKey } | { fault: PrivateKeyFault } {
  const rounds = roundsOf(text)
  if (rounds > MAX_ROUNDS) {
    const mend = 'change it with ssh-keygen -p -a 24'
    return fault('privateKey', `its passphrase takes ${rounds} rounds to check, at most ${MAX_ROUNDS} may be; ${mend}`)
  }
  const parsed = parse(text, passphrase)
  if (parsed instanceof Error) {
    // What else ssh2 says may quote the key.
    if (!/passphrase/i.test(parsed.message)) return fault('privateKey', UNREADABLE)
    return passphrase === undefined
      ? fault('passphrase', 'is required: the private key is encrypted')
      : fault('passphrase', 'does not open the private key')
  }
  return parsed.isPrivateKey() ? { key: parsed } : fault('privateKey', 'is a public key; give the private one')
}

const UNREADABLE =
  "is no private key that can be read: take one in the format of OpenSSH, PEM or PuTTY's version 2 (ssh-keygen -p turns PKCS#8 into the first)"

function fault(field: PrivateKeyFault['field'], message: string): { fault: PrivateKeyFault } {
  return { fault: { field, message } }
}

function parse(text: string, passphrase?: string): ParsedKey | Error {
  try {
    const parsed = ssh2.utils.parseKey(text, passphrase)
    // OpenSSH's format may hold several keys by its grammar; no tool writes more than one.
    return Array.isArray(parsed) ? ((parsed as ParsedKey[])[0] ?? new Error('holds no key')) : parsed
  } catch (error) {
    return error as Error
  }
}

/** Of the key derivation of an encrypted key in OpenSSH's format (openssh-portable, PROTOCOL.key); 0 for all others. */
function roundsOf(text: string): number {
  const [, body = ''] = /-----BEGIN OPENSSH PRIVATE KEY-----([\s\S]+?)-----END/.exec(text) ?? []
  const bytes = Buffer.from(body, 'base64')
  let at = 'openssh-key-v1\0'.length
  const next = () => {
    const start = at + 4
    at = start + bytes.readUInt32BE(at)
    return bytes.subarray(start, at)
  }
  try {
    next()
    const [derivation, options] = [next().toString(), next()]
    return derivation === 'bcrypt' ? options.readUInt32BE(4 + options.readUInt32BE(0)) : 0
  } catch {
    // Cut short: no key at all.
    return 0
  }
}
