import { BlockList, isIPv4, isIPv6 } from 'node:net'

/**
 * Which addresses a node fetches from for whoever asks for a build. That somebody is not on the node's network, so what only
 * this network reaches is not theirs to read: nothing of the node itself, ever, and of private ranges what the node's
 * owner lists.
 */
export type Reachability = 'reachable' | 'private' | 'own'

/** Loopback, link-local (where clouds keep credentials) and unspecified addresses. */
const own = listOf([
  ...['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '::/128', '::1/128', 'fe80::/10'],
  // Credentials of clouds at other addresses.
  ...['fd00:ec2::254/128', '100.100.100.200/32', '168.63.129.16/32', '192.0.0.192/32'],
])

/** RFC 1918, shared by carriers, unique local, for tests and protocols, many at once; IPv4 in the clothes of IPv6. */
const notPublic = listOf([
  ...['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', '192.0.0.0/24', '198.18.0.0/15'],
  ...['224.0.0.0/4', '240.0.0.0/4', 'fc00::/7', 'fec0::/10', 'ff00::/8', '64:ff9b::/96', '64:ff9b:1::/48', '2002::/16'],
])

/** What an address is to a node whose owner allows `listed`. */
export function reachability(address: string, listed?: BlockList): Reachability {
  const kind = isIPv6(address) ? 'ipv6' : 'ipv4'
  if (own.check(address, kind)) return 'own'
  return notPublic.check(address, kind) && !listed?.check(address, kind) ? 'private' : 'reachable'
}

/** `10.1.0.0/16,fd12::/16`, or single addresses; undefined when it is not such a list. */
export function readRanges(text: string): BlockList | undefined {
  const ranges = text.split(',').map((each) => each.trim())
  const isRange = (range: string) => {
    const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(range) ?? []
    const most = isIPv4(address) ? 32 : isIPv6(address) ? 128 : -1
    return most > 0 && Number(bits ?? most) <= most
  }
  return ranges.every(isRange) ? listOf(ranges) : undefined
}

function listOf(ranges: readonly string[]): BlockList {
  const list = new BlockList()
  for (const range of ranges) {
    const [address = '', bits] = range.split('/')
    const kind = isIPv6(address) ? 'ipv6' : 'ipv4'
    list.addSubnet(address, bits === undefined ? (kind === 'ipv6' ? 128 : 32) : Number(bits), kind)
  }
  return list
}
