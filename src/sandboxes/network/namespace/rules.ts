import { internalRanges } from '../internal.ts'
import { formatRange, type Policy } from '../policy.ts'
import type { Range } from '../ranges.ts'
import { type Block, guest, type Slot } from './layout.ts'

/**
 * The packet filter as text for `nft -f`, which takes a text whole or not at all.
 *
 * In the sandbox's namespace every packet is judged, not only the first of a connection, so that a connection ends with the
 * rule that allowed it. What is refused is answered at once, and a copy of it (so many a second) goes to the host, where it
 * is written down and dropped; the copy still has the guest's own address, which nothing else has out there.
 */
export function slotRules(block: Block, slot: Slot): string {
  return `
table ip tutti {
  set allowed { type ipv4_addr; flags interval; auto-merge; }
  set internal { type ipv4_addr; flags interval; auto-merge; elements = ${elements(internalRanges)}; }
  chain refuse {
    limit rate 10/second burst 30 packets dup to ${block.gateway} device "up0"
    meta l4proto tcp reject with tcp reset
    reject with icmp admin-prohibited
  }
  chain judge {
  }
  chain outward {
    ip saddr != ${guest.address} drop
    meta l4proto tcp ct state invalid reject with tcp reset
    ct state invalid drop
    ip daddr ${block.gateway} meta l4proto { tcp, udp } th dport 53 accept
    ct mark 1 accept
    ip daddr @allowed meta l4proto tcp ct state new tcp flags & (fin | syn | rst | ack) != syn reject with tcp reset
    ip daddr @allowed accept
    jump judge
    jump refuse
  }
  chain inward {
    ct state related meta l4proto icmp accept
    ct state != established drop
    ip saddr ${block.gateway} meta l4proto { tcp, udp } th sport 53 accept
    ct mark 1 accept
    ip saddr @allowed accept
    meta l4proto tcp reject with tcp reset
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    iifname "${guest.tap}" oifname "up0" jump outward
    iifname "up0" oifname "${guest.tap}" jump inward
  }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "up0" ct state related accept
    iifname "${guest.tap}" ip saddr ${guest.address} ip daddr ${guest.gateway} icmp type echo-request accept
    iifname "${guest.tap}" ip saddr ${guest.address} ip daddr != 224.0.0.0/3 jump refuse
  }
  chain prerouting {
    type nat hook prerouting priority dstnat;
    iifname "${guest.tap}" ip daddr ${guest.gateway} udp dport 53 dnat to ${block.gateway}
    iifname "${guest.tap}" ip daddr ${guest.gateway} tcp dport 53 dnat to ${block.gateway}
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname "up0" ip saddr ${guest.address} ct mark 1 snat to ${slot.judged}
    oifname "up0" ip saddr ${guest.address} snat to ${slot.direct}
  }
}
table ip6 tutti {
  chain forward { type filter hook forward priority filter; policy drop; }
  chain input { type filter hook input priority filter; policy drop; }
}
`
}

/** Replaces what is allowed in one step: no packet meets half of it. */
export function policyRules(policy: Policy): string {
  const judge = policy.judgesNames
    ? 'add rule ip tutti judge meta l4proto tcp ct state new ip daddr != @internal tcp flags & (fin | syn | rst | ack) == syn ct mark set 1 accept\n'
    : ''
  const allowed = policy.ranges.length === 0 ? '' : `add element ip tutti allowed ${elements(policy.ranges)}\n`
  return `flush set ip tutti allowed\nflush chain ip tutti judge\n${allowed}${judge}`
}

/**
 * On the host: sandboxes reach the two services of ours and nothing else of it, never each other, and nothing comes to them
 * that they did not ask for. Replaces what an earlier agent set.
 */
export function hostRules(block: Block, ports: { dns: number; proxy: number }): string {
  const ours = `iifname "${block.devices}*"`
  return `
table ip ${block.table} {
}
delete table ip ${block.table}
table ip ${block.table} {
  chain denied {
    type filter hook prerouting priority raw; policy accept;
    ${ours} ip saddr ${guest.address} meta nftrace set 1 drop
    ${ours} ip saddr != ${block.cidr} drop
  }
  chain prerouting {
    type nat hook prerouting priority dstnat - 10;
    ${ours} ip daddr ${block.gateway} udp dport 53 dnat to ${block.gateway}:${ports.dns}
    ${ours} ip daddr ${block.gateway} tcp dport 53 dnat to ${block.gateway}:${ports.dns}
    ${ours} ip saddr & 0.0.0.1 == 0.0.0.1 meta l4proto tcp dnat to ${block.gateway}:${ports.proxy}
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr ${block.cidr} oifname != "${block.devices}*" oifname != "lo" masquerade
  }
  chain input {
    type filter hook input priority filter - 10; policy accept;
    iifname != "${block.devices}*" ip daddr ${block.gateway} drop
    ${ours} ip daddr ${block.gateway} udp dport ${ports.dns} accept
    ${ours} ip daddr ${block.gateway} tcp dport { ${ports.dns}, ${ports.proxy} } accept
    ${ours} jump refuse
  }
  chain refuse {
    limit rate 100/second burst 200 packets meta nftrace set 1
    meta l4proto tcp reject with tcp reset
    reject with icmp admin-prohibited
  }
  chain forward {
    type filter hook forward priority filter - 10; policy accept;
    ${ours} ip daddr ${block.pool} jump refuse
    ${ours} oifname "ttn*" jump refuse
    oifname "${block.devices}*" ct state != { established, related } drop
  }
}
`
}

function elements(ranges: readonly Range[]): string {
  return `{ ${ranges.map(formatRange).join(', ')} }`
}
