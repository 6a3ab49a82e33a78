/**
 * The names of SSH algorithms. A server gets the modern ones; one that is too old for them gets what its operator
 * names, kind by kind, and nothing else.
 */
export const ALGORITHM_KINDS = ['kex', 'serverHostKey', 'cipher', 'hmac'] as const
export type AlgorithmKind = (typeof ALGORITHM_KINDS)[number]

/** In the order of preference. A kind that is absent keeps the modern ones. */
export type Algorithms = Partial<Record<AlgorithmKind, string[]>>

/** No SHA-1, no CBC. AES-GCM first: twice the speed of the others where the CPU knows AES. */
export const MODERN_ALGORITHMS: Record<AlgorithmKind, string[]> = {
  kex: [
    'curve25519-sha256',
    'curve25519-sha256@libssh.org',
    'ecdh-sha2-nistp256',
    'ecdh-sha2-nistp384',
    'ecdh-sha2-nistp521',
    'diffie-hellman-group-exchange-sha256',
    'diffie-hellman-group14-sha256',
    'diffie-hellman-group16-sha512',
    'diffie-hellman-group18-sha512'
  ],
  serverHostKey: [
    'ssh-ed25519',
    'ecdsa-sha2-nistp256',
    'ecdsa-sha2-nistp384',
    'ecdsa-sha2-nistp521',
    'rsa-sha2-512',
    'rsa-sha2-256'
  ],
  cipher: [
    'aes128-gcm@openssh.com',
    'aes256-gcm@openssh.com',
    'chacha20-poly1305@openssh.com',
    'aes128-ctr',
    'aes192-ctr',
    'aes256-ctr'
  ],
  hmac: ['hmac-sha2-256-etm@openssh.com', 'hmac-sha2-512-etm@openssh.com', 'hmac-sha2-256', 'hmac-sha2-512']
}

/** Known to the SSH library, and used only for a server whose `algorithms` names them. */
export const OLD_ALGORITHMS: Record<AlgorithmKind, string[]> = {
  kex: [
    'diffie-hellman-group15-sha512',
    'diffie-hellman-group17-sha512',
    'diffie-hellman-group-exchange-sha1',
    'diffie-hellman-group14-sha1',
    'diffie-hellman-group1-sha1'
  ],
  serverHostKey: ['ssh-rsa', 'ssh-dss'],
  cipher: ['aes256-cbc', 'aes192-cbc', 'aes128-cbc', '3des-cbc', 'aes128-gcm', 'aes256-gcm'],
  hmac: [
    'hmac-sha1-etm@openssh.com',
    'hmac-sha1',
    'hmac-md5',
    'hmac-sha2-256-96',
    'hmac-sha2-512-96',
    'hmac-ripemd160',
    'hmac-sha1-96',
    'hmac-md5-96'
  ]
}

export function knownAlgorithms(kind: AlgorithmKind): string[] {
  return [...MODERN_ALGORITHMS[kind], ...OLD_ALGORITHMS[kind]]
}
