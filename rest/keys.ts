/** API keys: only their SHA-256 is kept, compared in constant time. */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { ApiKey, Role } from '../config.ts'

export interface Caller {
  name: string
  role: Role
}

const hash = (secret: string): Buffer => createHash('sha256').update(secret).digest()

/** Who sends this Authorization header; null for nobody that is known. Without any key everybody is a local admin. */
export function authenticator(keys: ApiKey[]): (authorization: string | undefined) => Caller | null {
  const known = keys.map(({ name, role, secret }) => ({ name, role, digest: hash(secret) }))
  return (authorization) => {
    if (known.length === 0) return { name: 'local', role: 'admin' }
    const secret = /^Bearer\s+(\S+)\s*$/i.exec(authorization ?? '')?.[1]
    if (!secret) return null
    const digest = hash(secret)
    let caller: Caller | null = null
    // All are compared, so that the time tells nothing of which one it was.
    for (const key of known) if (timingSafeEqual(key.digest, digest)) caller = { name: key.name, role: key.role }
    return caller
  }
}

const ranks: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 }

export function mayActAs(caller: Caller, role: Role): boolean {
  return ranks[caller.role] >= ranks[role]
}
