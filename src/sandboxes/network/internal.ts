import { parseCidr } from '../../model/egress.ts'
import { contains, merge, type Range } from './ranges.ts'

/**
 * Addresses that lie inside somebody's network. A sandbox runs code of strangers next to them, so that they are closed even
 * where everything is allowed. After the IANA registry of special-purpose addresses.
 */
const named: readonly (readonly [cidr: string, name: string])[] = [
  ['169.254.169.254/32', 'the metadata service of clouds'],
  ['10.0.0.0/8', 'a private address'],
  ['172.16.0.0/12', 'a private address'],
  ['192.168.0.0/16', 'a private address'],
  ['100.64.0.0/10', "an address inside a provider's network"],
  ['169.254.0.0/16', 'a link-local address'],
  ['192.0.0.0/24', 'a reserved address'],
  ['198.18.0.0/15', 'an address for benchmarks inside a network'],
]

/** Nothing opens these. */
const never: readonly (readonly [cidr: string, name: string])[] = [
  ['0.0.0.0/8', 'no address of another machine'],
  ['127.0.0.0/8', 'a loopback address'],
  ['224.0.0.0/4', 'a multicast address'],
  ['240.0.0.0/4', 'a reserved address'],
]

const read = ([cidr]: readonly [string, string]): Range[] => [parseCidr(cidr) ?? []].flat()
export const neverReachable: readonly Range[] = merge(never.flatMap(read))
export const internalRanges: readonly Range[] = named.flatMap(read)
const all = merge([...internalRanges, ...neverReachable])

export function isInternal(address: number): boolean {
  return contains(all, address)
}

/** What an internal address is, for a sentence. */
export function nameOfInternal(address: number): string | undefined {
  return [...named, ...never].find((entry) => contains(read(entry), address))?.[1]
}
