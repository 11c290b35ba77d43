import { z } from 'zod'

/** What people name: jobs, tasks, nodes, ports, volumes. Safe as a file name, a DNS label and a path segment. */
export const Name = z
  .string()
  .regex(
    /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
    'must be 1 to 63 lower-case letters, digits or dashes, not starting or ending with a dash',
  )

/** Sixteen characters of base32 without look-alikes: 80 random bits. */
const idPattern = /^[0-9a-hjkmnp-tv-z]{16}$/

export const AllocationId = z.string().regex(idPattern).brand<'AllocationId'>()
export type AllocationId = z.infer<typeof AllocationId>

export const NodeId = z.string().regex(idPattern).brand<'NodeId'>()
export type NodeId = z.infer<typeof NodeId>

export const TokenId = z.string().regex(idPattern).brand<'TokenId'>()
export type TokenId = z.infer<typeof TokenId>

const alphabet = '0123456789abcdefghjkmnpqrstvwxyz'

export const SandboxId = z.string().regex(idPattern).brand<'SandboxId'>()
export type SandboxId = z.infer<typeof SandboxId>

/** Of one immutable snapshot of a machine, or of its disk. */
export const BuildId = z.string().regex(idPattern).brand<'BuildId'>()
export type BuildId = z.infer<typeof BuildId>

/** Ten random bytes written as an id; Crockford's base32 alphabet (https://www.crockford.com/base32.html). */
export function encodeId(bytes: Uint8Array): string {
  let id = ''
  let bits = 0
  let value = 0
  for (const byte of bytes.subarray(0, 10)) {
    value = (value << 8) | byte
    bits += 8
    while (bits >= 5) {
      bits -= 5
      id += alphabet[(value >> bits) & 31]
    }
    value &= (1 << bits) - 1
  }
  return id
}
