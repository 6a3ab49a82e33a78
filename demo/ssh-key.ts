import ssh2 from 'ssh2'

export interface Encryption {
  passphrase: string
  cipher: string
  /** Of the key derivation; each takes 10 to 20 ms. */
  rounds: number
}

/**
 * A new ed25519 key pair in OpenSSH's format. ssh2 1.17 drops a leading zero byte of the public key, so that one pair in
 * 200 is malformed, for itself too (20 of 4,000 tried); such a pair is thrown away.
 */
export function newSshKey(encryption?: Encryption): { private: string; public: string } {
  for (;;) {
    const pair = ssh2.utils.generateKeyPairSync('ed25519', encryption ?? {})
    if (!(ssh2.utils.parseKey(pair.private, encryption?.passphrase) instanceof Error)) return pair
  }
}
