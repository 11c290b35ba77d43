import { type Egress, formatAddress, parseAddress, parseCidr } from '../../model/egress.ts'
import { internalRanges, isInternal, nameOfInternal, neverReachable } from './internal.ts'
import { contains, merge, type Range, subtract } from './ranges.ts'

/**
 * What one sandbox may reach, worked out once from what was asked for, so that packets, names and connections are all
 * judged by the same values; and the sentence for whoever was refused.
 */
export interface Policy {
  readonly egress: Egress
  /** Reached directly, by every protocol. */
  readonly ranges: readonly Range[]
  /** Whether some names are allowed and not all: then connections are led through the egress proxy, which reads names. */
  readonly judgesNames: boolean
  mayReach(address: string): boolean
  /** Whether a name may be looked up, and connected to where the connection itself says it. */
  mayAsk(name: string): boolean
  /** Whether the egress proxy may connect to what an allowed name turned out to stand for. */
  mayStandFor(address: string): boolean
  /** Why an address is not reached. */
  whyNot(address: string): string
  /** Why a name is not. */
  whyNotName(name: string): string
}

export function compilePolicy(egress: Egress): Policy {
  const listed = egress.mode === 'list' ? egress.cidrs.flatMap((cidr) => parseCidr(cidr) ?? []) : []
  const ranges = reachable(egress.mode === 'allow' ? [{ first: 0, last: 2 ** 32 - 1 }] : listed)
  const names = egress.mode === 'list' ? compileNames(egress.domains) : undefined
  const reaches = (address: number | undefined) => address !== undefined && contains(ranges, address)
  return {
    egress,
    ranges,
    judgesNames: names !== undefined && names.count > 0,
    mayReach: (address) => reaches(parseAddress(address)),
    mayAsk: (name) => egress.mode === 'allow' || names?.matches(name) === true,
    mayStandFor: (address) => {
      const number = parseAddress(address)
      return number !== undefined && (reaches(number) || !isInternal(number))
    },
    whyNot: (address) => whyNot(egress, address),
    whyNotName: (name) =>
      egress.mode === 'deny'
        ? 'everything is denied to this sandbox'
        : `no rule allows the name "${name.slice(0, 253)}"`,
  }
}

export const denyAll: Policy = compilePolicy({ mode: 'deny' })

/** A range opens internal networks only by lying inside one; nothing opens loopback, multicast and what is reserved. */
function reachable(listed: readonly Range[]): Range[] {
  const explicit = listed.filter((range) =>
    internalRanges.some((internal) => internal.first <= range.first && range.last <= internal.last),
  )
  return subtract(merge([...subtract(listed, internalRanges), ...explicit]), neverReachable)
}

function whyNot(egress: Egress, address: string): string {
  const number = parseAddress(address)
  const internal = number === undefined ? undefined : nameOfInternal(number)
  if (egress.mode === 'deny') return 'everything is denied to this sandbox'
  if (internal !== undefined)
    return `${address} is ${internal}, which is never reached unless a range inside it is listed`
  return egress.mode === 'allow' ? `${address} cannot be reached from sandboxes` : `no rule allows ${address}`
}

/** Exact names and, for `*.example.org`, everything below it; in sets, so that a thousand cost as much as one. */
function compileNames(domains: readonly string[]): { count: number; matches(name: string): boolean } {
  const lower = domains.map((domain) => domain.toLowerCase())
  const exact = new Set(lower.filter((domain) => !domain.startsWith('*.')))
  const above = new Set(lower.filter((domain) => domain.startsWith('*.')).map((domain) => domain.slice(2)))
  return {
    count: domains.length,
    matches: (asked) => {
      const name = asked.toLowerCase().replace(/\.$/, '')
      if (exact.has(name)) return true
      for (let dot = name.indexOf('.'); dot > 0; dot = name.indexOf('.', dot + 1))
        if (above.has(name.slice(dot + 1))) return true
      return false
    },
  }
}

/** As nftables writes a range in a set. */
export function formatRange({ first, last }: Range): string {
  return first === last ? formatAddress(first) : `${formatAddress(first)}-${formatAddress(last)}`
}
