/** What is known of a MongoDB from its address alone. */

/** Of an address that names none. */
export const DEFAULT_DATABASE = 'longshore'

/** `MongoDB at host:port/database`, without the user, the password and the options that an address may hold. */
export function mongoName(url: string): string {
  const [, authority = '', database = ''] = /^[^:]+:\/\/([^/?]*)(?:\/([^?]*))?/.exec(url) ?? []
  return `MongoDB at ${authority.slice(authority.lastIndexOf('@') + 1)}/${database || DEFAULT_DATABASE}`
}
