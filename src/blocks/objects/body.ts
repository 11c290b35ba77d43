import type { Readable } from 'node:stream'
import { Fault } from '../../model/fault.ts'

/** A body in memory: what is put is a pack at most, and one that is in memory can be signed, and sent again. */
export async function bytesOf(key: string, body: Buffer | (() => Readable), size: number): Promise<Buffer> {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.concat(await Array.fromAsync(body() as AsyncIterable<Buffer>))
  if (bytes.length !== size)
    throw new Fault('invalid', `${key} has ${bytes.length} bytes, not the ${size} that were announced`)
  return bytes
}
