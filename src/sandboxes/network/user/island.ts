import { z } from 'zod'
import { formatAddress, parseAddress } from '../../../model/egress.ts'
import { guest } from '../namespace/layout.ts'

/** What the program inside the namespaces and the agent outside agree on. */
export const places = { relay: 'relay.sock', ready: 'ready', log: 'inside.log', self: 'inside.json' } as const

/** Who asks, and for what: a connection, or the answer to one DNS query. One line of JSON. */
export const Hello = z.union([
  z.strictObject({ source: z.ipv4(), address: z.ipv4(), port: z.int().min(0).max(65_535) }),
  z.strictObject({ source: z.ipv4(), query: z.base64().max(8192) }),
])
export type Hello = z.infer<typeof Hello>

export const mostHello = 9000

export function hello(said: Hello): string {
  return `${JSON.stringify(said)}\n`
}

/** Addresses that only exist inside, one for each sandbox, so that a connection says whose it is. */
const base = parseAddress('10.198.0.0') ?? 0
export const mostSlots = 5000
export const sourceOf = (slot: number) => formatAddress(base + slot)
export const slotAt = (source: string) => (parseAddress(source) ?? 0) - base

/** Everything that guests send is led to the program inside; what it cannot carry is refused, and traced. */
export function rulesInside(ports: { tcp: number; dns: number }): string {
  const guests = 'ip saddr 10.198.0.0/16'
  return `
table ip tutti {
  chain lead {
    type nat hook output priority -100; policy accept;
    ${guests} ip daddr ${guest.gateway} udp dport 53 dnat to 127.0.0.1:${ports.dns}
    ${guests} meta l4proto tcp dnat to 127.0.0.1:${ports.tcp}
  }
  chain refuse {
    type filter hook output priority filter; policy drop;
    ip saddr 127.0.0.1 accept
    ${guests} ip daddr 127.0.0.1 udp dport ${ports.dns} accept
    ${guests} ip daddr 127.0.0.1 tcp dport ${ports.tcp} accept
    limit rate 50/second burst 100 packets meta nftrace set 1
    reject with icmp admin-prohibited
  }
}
`
}
