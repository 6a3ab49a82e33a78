/** What is known of a MongoDB from its address alone. */

/** Of an address that names none. */
export const DEFAULT_DATABASE = 'longshore'

/** `hosts` without the user and the password; no database where the address names none. */
function partsOf(url: string): { hosts: string; database: string | null } {
  const [, authority = '', database = ''] = /^[^:]+:\/\/([^/?]*)(?:\/([^?]*))?/.exec(url) ?? []
  return { hosts: authority.slice(authority.lastIndexOf('@') + 1), database: database || null }
}

export function hasDatabase(url: string): boolean {
  return partsOf(url).database !== null
}

/** `MongoDB at host:port/database`, without what an address may hold beside these. */
export function mongoName(url: string): string {
  const { hosts, database } = partsOf(url)
  return `MongoDB at ${hosts}/${database ?? DEFAULT_DATABASE}`
}
