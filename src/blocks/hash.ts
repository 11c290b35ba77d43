import { hash } from 'node:crypto'

/**
 * Names of bytes: SHA-256, as 32 bytes in maps and on hot paths, as hex in manifests and file names. Thirty-two zero
 * bytes stand for a chunk of zeros, which is never stored.
 */
export const hashBytes = 32

export const zeroId: Uint8Array = new Uint8Array(hashBytes)

export function toHash(id: Uint8Array): string {
  return Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString('hex')
}

export function fromHash(hex: string): Buffer {
  return Buffer.from(hex, 'hex')
}

export function hashOf(bytes: Uint8Array): Buffer {
  return hash('sha256', bytes, 'buffer')
}

export function isZeroId(id: Uint8Array): boolean {
  for (let at = 0; at < hashBytes; at++) if (id[at] !== 0) return false
  return true
}

const zeros = Buffer.alloc(64 * 1024)

/** Whether all bytes are zero; compares memory, so it costs next to nothing where they are not. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.byteLength; at += zeros.length) {
    const length = Math.min(zeros.length, bytes.byteLength - at)
    if (Buffer.compare(bytes.subarray(at, at + length), zeros.subarray(0, length)) !== 0) return false
  }
  return true
}

/** The id as a key of a Map: one character a byte, half of what hex takes. */
export function keyOf(id: Uint8Array): string {
  return Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString('latin1', 0, hashBytes)
}
