import { crc32 } from 'node:zlib'
import { Fault } from '../model/fault.ts'
import { hashOf } from './hash.ts'

/**
 * A pack: many chunks in one file that is written once, from front to back. All numbers are little-endian.
 *
 *     pack   = head · chunks · index · footer
 *     head   = "TUTTIPK1"
 *     chunks = each as it is stored: one zstd frame, or the bytes themselves where that would not be shorter
 *     index  = one entry of 44 bytes for each chunk, in the order of their places:
 *              SHA-256 of the chunk's own bytes (32) · offset in the pack (u32) · stored bytes (u32)
 *              · bytes, with the highest bit set when they are stored as zstd (u32)
 *     footer = SHA-256 of the index (32) · offset of the index (u32) · entries (u32) · 16 zero bytes
 *              · CRC-32 of the footer until here (u32) · "PK1\n"
 *
 * A pack is named by the hash in its footer, which covers every chunk's hash and place; so the name, the index and each
 * chunk can be verified apart, and a reader needs the end of the file, then only the ranges of what it wants.
 */
export const packHead = Buffer.from('TUTTIPK1')
export const entryBytes = 44
export const footerBytes = 64
/** A writer goes on with another pack before this one grows longer. */
export const maxPackBytes = 64 * 1024 * 1024
/** A whole number of what a chunk may be; see `Image`. */
const maxChunkBytes = 2 ** 22
const tail = Buffer.from('PK1\n')
const zstdFlag = 0x8000_0000

/** Where a chunk lies in its pack. */
export interface Place {
  offset: number
  storedBytes: number
  bytes: number
  isCompressed: boolean
}

export interface PackIndex {
  /** SHA-256 of the entries, hex. */
  name: string
  /** Entries one after the other, in the order of their offsets. */
  entries: Buffer
  count: number
  /** Bytes of the whole pack. */
  size: number
}

export function writeEntry(target: Buffer, at: number, id: Uint8Array, place: Place): void {
  target.set(id, at)
  target.writeUInt32LE(place.offset, at + 32)
  target.writeUInt32LE(place.storedBytes, at + 36)
  target.writeUInt32LE((place.isCompressed ? zstdFlag : 0) + place.bytes, at + 40)
}

export function placeAt(entries: Buffer, entry: number): Place {
  const at = entry * entryBytes
  const bytes = entries.readUInt32LE(at + 40)
  return {
    offset: entries.readUInt32LE(at + 32),
    storedBytes: entries.readUInt32LE(at + 36),
    bytes: bytes & ~zstdFlag,
    isCompressed: bytes >= zstdFlag,
  }
}

export function idAt(entries: Buffer, entry: number): Buffer {
  return entries.subarray(entry * entryBytes, entry * entryBytes + 32)
}

/** What follows the chunks, and the name that the pack gets. */
export function sealPack(entries: Buffer, indexOffset: number): { name: string; trailer: Buffer } {
  const digest = hashOf(entries)
  const footer = Buffer.alloc(footerBytes)
  digest.copy(footer)
  footer.writeUInt32LE(indexOffset, 32)
  footer.writeUInt32LE(entries.length / entryBytes, 36)
  footer.writeUInt32LE(crc32(footer.subarray(0, 56)), 56)
  tail.copy(footer, 60)
  return { name: digest.toString('hex'), trailer: Buffer.concat([entries, footer]) }
}

/** Bytes that are worth reading first from the end of a pack: the footer and, most of the time, all of the index. */
export function tailBytes(packSize: number): number {
  return Math.min(packSize, Math.max(64 * 1024, Math.floor(packSize / 128)))
}

/**
 * Reads a pack's index in one or two reads, and believes nothing: the footer must add up, the index must have the hash
 * that is the pack's name, and every place must lie within the pack.
 */
export async function readPackIndex(
  name: string,
  size: number,
  read: (offset: number, length: number) => Promise<Buffer>,
): Promise<PackIndex> {
  if (size < packHead.length + footerBytes) throw corruptPack(name, 'it is shorter than a footer')
  const length = tailBytes(size)
  const end = await read(size - length, length)
  if (end.length !== length) throw corruptPack(name, `it ends ${length - end.length} bytes too early`)
  const footer = end.subarray(length - footerBytes)
  if (!footer.subarray(60).equals(tail) || crc32(footer.subarray(0, 56)) !== footer.readUInt32LE(56))
    throw corruptPack(name, 'its footer is damaged')
  const indexOffset = footer.readUInt32LE(32)
  const count = footer.readUInt32LE(36)
  const indexBytes = count * entryBytes
  if (indexOffset + indexBytes + footerBytes !== size) throw corruptPack(name, 'its footer does not fit its size')
  const start = indexOffset - (size - length)
  const entries = Buffer.from(
    start >= 0 ? end.subarray(start, start + indexBytes) : await read(indexOffset, indexBytes),
  )
  if (footer.toString('hex', 0, 32) !== name || hashOf(entries).toString('hex') !== name)
    throw corruptPack(name, 'its index is not what its name says')
  let at = packHead.length
  for (let entry = 0; entry < count; entry++) {
    const place = placeAt(entries, entry)
    if (place.offset < at || place.offset + place.storedBytes > indexOffset || place.bytes > maxChunkBytes)
      throw corruptPack(name, `its entry ${entry} lies outside`)
    at = place.offset + place.storedBytes
  }
  return { name, entries, count, size }
}

export function corruptPack(name: string, reason: string): Fault {
  return new Fault('conflict', `pack ${name} is corrupt: ${reason}`)
}
