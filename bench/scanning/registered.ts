/** Server records for the benchmark, as the registry makes them. */

import type { SecretField, ServerRecord } from '../../domain/server.ts'
import { newServer, parseNewServer } from '../../domain/server-input.ts'
import { seal } from '../../drivers/secrets.ts'

/** `secrets` in plain text; sealed with `encryptionKey` (base64). */
export function registeredServer(
  id: string,
  body: Record<string, unknown>,
  secrets: Partial<Record<SecretField, string>>,
  encryptionKey: string
): ServerRecord {
  const { input } = parseNewServer({ name: id, settle: { checks: 1, seconds: 0 }, ...body, ...secrets })
  const sealed = Object.entries(secrets).map(([field, secret]) => [
    field,
    seal(Buffer.from(encryptionKey, 'base64'), secret, `${id}:${field}`)
  ])
  return newServer(id, input, Object.fromEntries(sealed), Date.now())
}
