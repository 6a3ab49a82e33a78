/** A secret as it is kept and as it crosses the network: never readable without the key. All fields are base64. */
export interface SealedSecret {
  /** First bytes of the SHA-256 of the key that wrapped `dataKey`, so that keys can be rotated. */
  keyId: string
  /** The secret's own key, wrapped: iv, tag, ciphertext. */
  dataKey: string
  /** The secret: iv, tag, ciphertext. */
  value: string
}
