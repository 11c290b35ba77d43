import type { Readable } from 'node:stream'
import { Fault } from '../../model/fault.ts'
import type { ObjectStore } from '../objects.ts'

/** A body in memory: what is put is a pack at most, and one that is in memory can be signed, and sent again. */
export async function bytesOf(key: string, body: Buffer | (() => Readable), size: number): Promise<Buffer> {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.concat(await Array.fromAsync(body() as AsyncIterable<Buffer>))
  if (bytes.length !== size)
    throw new Fault('invalid', `${key} has ${bytes.length} bytes, not the ${size} that were announced`)
  return bytes
}

/** What a header such as `bytes 10-19/100` says; undefined where the server sent all of the object. */
export function rangeIn(contentRange: string | null | undefined): { start: number; size: number } | undefined {
  const [, start, size] = /^bytes (\d+)-\d+\/(\d+)$/.exec(contentRange ?? '') ?? []
  return start === undefined || size === undefined ? undefined : { start: Number(start), size: Number(size) }
}

/** The end of an object, from a server that must be told where it begins. */
export async function tailInTwo(
  objects: Pick<ObjectStore, 'size' | 'get'>,
  key: string,
  length: number,
): Promise<{ bytes: Buffer; size: number } | undefined> {
  const size = await objects.size(key)
  if (size === undefined) return undefined
  const offset = Math.max(0, size - length)
  return { bytes: await objects.get(key, { offset, length: size - offset }), size }
}
