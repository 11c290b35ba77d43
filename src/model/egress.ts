import { z } from 'zod'

/**
 * What a sandbox may reach. `list` names address ranges, for every protocol, and names, for TLS and HTTP. Ranges of private
 * networks are reached only when a range inside them is listed: a wider one does not open them by accident.
 */
const Cidr = z
  .string()
  .max(50)
  .superRefine((text, context) => {
    const mistake = mistakeInCidr(text)
    if (mistake !== undefined) context.addIssue({ code: 'custom', message: mistake })
  })

const Domain = z
  .string()
  .max(255)
  .superRefine((text, context) => {
    const mistake = mistakeInDomain(text)
    if (mistake !== undefined) context.addIssue({ code: 'custom', message: mistake })
  })

/** Names match exactly, or everything below with `*.`; upper and lower case are the same. */
export const Egress = z.discriminatedUnion('mode', [
  z.strictObject({ mode: z.literal('allow') }),
  z.strictObject({ mode: z.literal('deny') }),
  z.strictObject({
    mode: z.literal('list'),
    cidrs: z.array(Cidr).max(1000).default([]),
    domains: z.array(Domain).max(1000).default([]),
  }),
])
export type Egress = z.infer<typeof Egress>

/** An IPv4 range as numbers, both ends in it; undefined when the text is none. A lone address is a range of one. */
export function parseCidr(text: string): { first: number; last: number } | undefined {
  const [, address = '', bits = '32'] = /^([\d.]+)(?:\/(\d{1,2}))?$/.exec(text) ?? []
  const first = parseAddress(address)
  if (first === undefined || Number(bits) > 32) return undefined
  const size = 2 ** (32 - Number(bits))
  return first % size === 0 ? { first, last: first + size - 1 } : undefined
}

/** An IPv4 address as a number. */
export function parseAddress(text: string): number | undefined {
  const parts = text.split('.')
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256))
    return undefined
  return parts.reduce((sum, part) => sum * 256 + Number(part), 0)
}

export function formatAddress(address: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join('.')
}

function mistakeInCidr(text: string): string | undefined {
  if (text.includes(':')) return `"${text}" is an IPv6 range; sandboxes have IPv4 only, such as 203.0.113.0/24`
  const [address = '', bits, ...rest] = text.split('/')
  const number = parseAddress(address)
  if (number === undefined) {
    const hint = /[a-z]/i.test(text) ? '; names belong in "domains"' : ', such as 203.0.113.0/24 or 203.0.113.7'
    return `"${text}" is not an IPv4 range${hint}`
  }
  if (bits === undefined) return mistakeInRange(text, number, number)
  if (rest.length > 0 || !/^\d{1,2}$/.test(bits) || Number(bits) > 32)
    return `"${text}" has no length from 0 to 32 after the slash, such as ${address}/32`
  const size = 2 ** (32 - Number(bits))
  const first = number - (number % size)
  if (first !== number) return `"${text}" has bits set behind its length: did you mean ${formatAddress(first)}/${bits}?`
  return mistakeInRange(text, first, first + size - 1)
}

function mistakeInRange(text: string, first: number, last: number): string | undefined {
  const block = (number: number) => Math.floor(number / 2 ** 24)
  if (block(first) === 127 && block(last) === 127)
    return `"${text}" is loopback: the sandbox has its own, and the host's is never reachable`
  return block(first) >= 224 ? `"${text}" is multicast or reserved, which no sandbox can reach` : undefined
}

function mistakeInDomain(text: string): string | undefined {
  if (/^[a-z]+:\/\//i.test(text)) return `"${text}" is a URL; only its host name belongs here`
  if (parseAddress(text) !== undefined || text.includes('/')) return `"${text}" is no name; addresses belong in "cidrs"`
  if (/:\d+$/.test(text)) return `"${text}" has a port; names hold for every port, so leave it out`
  const name = text.startsWith('*.') ? text.slice(2) : text
  if (name.includes('*'))
    return `"${text}": a star may only stand for all of the labels in front, such as *.example.org`
  if (name.endsWith('.')) return `"${text}" ends with a dot; leave it out`
  if (/[^\x20-\x7e]/.test(name)) return `"${text}" is not ASCII; write it as it stands in DNS, beginning with xn--`
  const labels = name.split('.')
  if (name.length > 253 || !labels.every((label) => /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/i.test(label)))
    return `"${text}" is not a host name such as example.org or *.example.org`
  return undefined
}
