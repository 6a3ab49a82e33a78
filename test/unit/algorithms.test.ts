import { createRequire } from 'node:module'
import { describe, expect, test } from '@jest/globals'
import { ALGORITHM_KINDS, knownAlgorithms, MODERN_ALGORITHMS } from '../../domain/algorithms.ts'

/** ssh2 does not publish what it supports. */
const supported = createRequire(import.meta.url)('ssh2/lib/protocol/constants.js')
const names = {
  kex: supported.SUPPORTED_KEX,
  serverHostKey: supported.SUPPORTED_SERVER_HOST_KEY,
  cipher: supported.SUPPORTED_CIPHER,
  hmac: supported.SUPPORTED_MAC
}

describe('algorithms', () => {
  test.each(ALGORITHM_KINDS)('the known names of %s are those that the SSH library supports', (kind) => {
    expect(knownAlgorithms(kind).toSorted()).toEqual([...names[kind]].toSorted())
  })

  test('no modern one rests on SHA-1, MD5 or CBC', () => {
    expect(Object.values(MODERN_ALGORITHMS).flat()).not.toContainEqual(
      expect.stringMatching(/sha1|md5|cbc|ssh-(rsa|dss)|ripemd/)
    )
  })
})
