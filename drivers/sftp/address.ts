/** Which addresses an SFTP server may have. A server's host is typed by users, so this keeps them out of the inner network. */
import { lookup } from 'node:dns/promises'
import ipaddr from 'ipaddr.js'
import { IngestError } from '../../domain/errors.ts'

type Address = ipaddr.IPv4 | ipaddr.IPv6
type Network = [Address, number]

export interface AddressPolicyOptions {
  /** CIDR networks (or single addresses) that are allowed beside the public ones. */
  allow: string[]
  /** CIDR networks (or single addresses) that are refused whatever else holds. */
  deny: string[]
  /** The system's resolver when absent. */
  lookup?: (host: string) => Promise<string[]>
}

/** Refused even inside an allowed network: here hosts talk to themselves, to everyone, or hand out a cloud's credentials. */
const neverRanges = new Set(['unspecified', 'linkLocal', 'multicast', 'broadcast'])
const metadataServices = ['fd00:ec2::254', '100.100.100.200', '168.63.129.16'].map(network)
/** `::a.b.c.d` is another spelling of a v4 address that ipaddr.js takes for a public one. */
const v4Compatible = network('::/96')

/**
 * Returns what turns a host name into the address to dial: the first of its addresses that the policy lets pass.
 * It rejects with ADDRESS_DENIED when none does and with SFTP_UNREACHABLE when the name is unknown.
 * Dial what it returns, never the name again: a second look-up may answer with something else.
 */
export function addressPolicy(options: AddressPolicyOptions): (host: string) => Promise<string> {
  const allow = options.allow.map(network)
  const deny = options.deny.map(network)
  const resolve = options.lookup ?? systemLookup

  return async (host) => {
    const addresses = await lookUp(resolve, host)
    for (const text of addresses) {
      const address = parse(text)
      if (address && allowed(address, allow, deny)) return address.toString()
    }
    const shown = addresses.slice(0, 4).join(', ')
    const mend = addresses.some((text) => mayBeAllowed(parse(text), deny))
      ? 'is not allowed. If it is meant, an operator adds its network to ALLOW_NETWORKS.'
      : 'is never allowed, whatever ALLOW_NETWORKS says: it is link-local, multicast, a cloud metadata address, or in DENY_NETWORKS.'
    throw new IngestError('ADDRESS_DENIED', `The address of ${host} (${shown}) ${mend}`, {
      data: { host, addresses: addresses.slice(0, 4) }
    })
  }
}

/** Whether ALLOW_NETWORKS could help. */
function mayBeAllowed(address: Address | null, deny: Network[]): boolean {
  return (
    address !== null &&
    !neverRanges.has(address.range()) &&
    !within(address, metadataServices) &&
    !within(address, deny)
  )
}

function allowed(address: Address, allow: Network[], deny: Network[]): boolean {
  if (!mayBeAllowed(address, deny)) return false
  if (address.range() === 'unicast' && !within(address, [v4Compatible])) return true
  return within(address, allow)
}

function within(address: Address, networks: Network[]): boolean {
  return networks.some(([base, bits]) => base.kind() === address.kind() && address.match(base as never, bits))
}

function network(text: string): Network {
  try {
    if (text.includes('/')) return ipaddr.parseCIDR(text)
    const address = ipaddr.parse(text)
    return [address, address.kind() === 'ipv4' ? 32 : 128]
  } catch (cause) {
    throw new IngestError('INVALID', `"${text}" is not a network; write it as 10.0.0.0/8 or fd00::/8.`, { cause })
  }
}

/** The address with a v4 one freed from its v6 wrapping; null for what no check can be made on. */
function parse(text: string): Address | null {
  try {
    return ipaddr.process(text)
  } catch {
    return null
  }
}

async function lookUp(resolve: (host: string) => Promise<string[]>, host: string): Promise<string[]> {
  let addresses: string[] = []
  let cause: unknown
  try {
    addresses = await resolve(host)
  } catch (error) {
    cause = error
  }
  if (addresses.length > 0) return addresses
  const code = (cause as { code?: string } | undefined)?.code ?? 'no address'
  throw new IngestError('SFTP_UNREACHABLE', `The host name ${host} cannot be resolved (${code}); check its spelling.`, {
    data: { host },
    cause
  })
}

async function systemLookup(host: string): Promise<string[]> {
  const bare = host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host
  return (await lookup(bare, { all: true })).map((found) => found.address)
}
