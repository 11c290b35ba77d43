import type { Socket } from 'node:net'
import { formatAddress } from '../../model/egress.ts'
import { Fault } from '../../model/fault.ts'

/**
 * Where a connection meant to go that the packet filter led to us: the kernel knows, and says so by a socket option that
 * Node does not reach. So the C library is asked, which Node can since 26.1.
 */
export type OriginalDestination = (socket: Socket) => { address: string; port: number } | undefined

const solIp = 0
const soOriginalDst = 80

export function openOriginalDestination(): OriginalDestination {
  const getsockopt = load()
  return (socket) => {
    const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd
    if (fd === undefined || fd < 0) return undefined
    const address = Buffer.alloc(16)
    const length = Buffer.alloc(4)
    length.writeUInt32LE(address.length)
    if (getsockopt(fd, solIp, soOriginalDst, address, length) !== 0) return undefined
    return { address: formatAddress(address.readUInt32BE(4)), port: address.readUInt16BE(2) }
  }
}

/** Why it cannot be found out here, or undefined. */
export function whyNoOriginalDestination(): string | undefined {
  try {
    load()
    return undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

type GetSockOpt = (fd: number, level: number, name: number, value: Buffer, length: Buffer) => number

function load(): GetSockOpt {
  const ffi = process.getBuiltinModule('node:ffi') as unknown as Ffi | undefined
  if (ffi === undefined)
    throw new Fault(
      'unavailable',
      'rules by name need Node 26.1 or newer, which can ask the system where a connection went',
    )
  const { functions } = ffi.dlopen(null, {
    getsockopt: { arguments: ['int32', 'int32', 'int32', 'pointer', 'pointer'], return: 'int32' },
  })
  return functions['getsockopt'] as GetSockOpt
}

interface Ffi {
  dlopen(
    library: string | null,
    functions: Record<string, { arguments: string[]; return: string }>,
  ): { functions: Record<string, unknown> }
}
