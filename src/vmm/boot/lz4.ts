/**
 * Unpacks what `lz4 -l` packed, as kernels are: blocks of at most 8 MiB, each with its packed length before it.
 * Of a block: a token with two lengths, literal bytes, and how far back to copy from.
 * https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md. Nothing that Node brings reads it.
 */
export function lz4Legacy(packed: Buffer): Buffer {
  const blocks: Buffer[] = []
  for (let at = 4; at + 4 <= packed.length; ) {
    const length = packed.readUInt32LE(at)
    blocks.push(block(packed.subarray(at + 4, at + 4 + length)))
    at += 4 + length
  }
  return Buffer.concat(blocks)
}

const blockBytes = 8 << 20

function block(packed: Buffer): Buffer {
  const out = Buffer.allocUnsafe(blockBytes)
  let from = 0
  let to = 0
  while (from < packed.length) {
    const token = packed[from] ?? 0
    const literals = lengthAt(packed, from + 1, token >> 4)
    from = literals.next + literals.length
    if (to + literals.length > blockBytes) throw new RangeError('an lz4 block is longer than it may be')
    packed.copy(out, to, literals.next, from)
    to += literals.length
    if (from >= packed.length) break
    const back = packed.readUInt16LE(from)
    const match = lengthAt(packed, from + 2, token & 15)
    const end = to + match.length + 4
    from = match.next
    if (back === 0 || back > to || end > blockBytes) throw new RangeError('an lz4 block refers to nothing')
    // Byte by byte: it may read what it has just written, which is how runs are packed.
    for (; to < end; to++) out[to] = out[to - back] ?? 0
  }
  return out.subarray(0, to)
}

/** A length that did not fit into its half of the token goes on in the bytes at `next`, up to the first that is not 255. */
function lengthAt(packed: Buffer, next: number, half: number): { length: number; next: number } {
  if (half < 15) return { length: half, next }
  let length = half
  let byte = 255
  while (byte === 255) {
    byte = packed[next] ?? 0
    length += byte
    next += 1
  }
  return { length, next }
}
