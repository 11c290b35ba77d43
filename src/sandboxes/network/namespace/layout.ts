import { formatAddress, parseCidr } from '../../../model/egress.ts'
import { Fault } from '../../../model/fault.ts'

/**
 * Names and addresses of everything that is made here, worked out from three things: the pool, the block of it that this
 * agent took, and the slot of a sandbox. So a crash leaves nothing that its successor cannot name.
 *
 * Inside, every sandbox is alike, so that a snapshot wakes up in the network it knows. Outside, a slot has two addresses:
 * one for what goes straight to where it is allowed, one for what the egress proxy has to look at first.
 */
export const guest = {
  address: '169.254.0.21',
  prefix: 30,
  gateway: '169.254.0.22',
  mac: '02:fc:00:00:00:05',
  gatewayMac: '02:fc:00:00:00:01',
  tap: 'tap0',
} as const

/** Addresses of one agent: 1,024, of which two go to the gateway and two to each slot. */
const blockBits = 10
export const slotCount = 2 ** (blockBits - 1) - 1

export interface Block {
  readonly index: number
  readonly cidr: string
  /** The whole pool: nothing in it is ever reached by a sandbox. */
  readonly pool: string
  /** Where sandboxes find resolver and egress proxy; an address of the host's loopback interface. */
  readonly gateway: string
  /** Beginning of the names of this agent's interfaces. */
  readonly devices: string
  readonly table: string
}

export interface Slot {
  readonly index: number
  readonly device: string
  /** Both addresses, as one route. */
  readonly cidr: string
  readonly direct: string
  readonly judged: string
}

export function blocksOf(pool: string): Block[] {
  const range = parseCidr(pool)
  const count = range === undefined ? 0 : Math.floor((range.last - range.first + 1) / 2 ** blockBits)
  if (range === undefined || count === 0)
    throw new Fault(
      'invalid',
      `"${pool}" is no pool of addresses for sandboxes: it takes a range such as 10.198.0.0/16`,
    )
  return Array.from({ length: Math.min(count, 256) }, (_, index) => {
    const first = range.first + index * 2 ** blockBits
    return {
      index,
      pool,
      cidr: `${formatAddress(first)}/${32 - blockBits}`,
      gateway: formatAddress(first),
      devices: `ttn${index}-`,
      table: `tutti_net_${index}`,
    }
  })
}

/** Slots count from 1. */
export function slotOf(block: Block, index: number): Slot {
  const first = (parseCidr(block.cidr)?.first ?? 0) + 2 * index
  return {
    index,
    device: `${block.devices}${index}`,
    cidr: `${formatAddress(first)}/31`,
    direct: formatAddress(first),
    judged: formatAddress(first + 1),
  }
}

export function namespaceOf(id: string): string {
  return `tutti-${id}`
}
