import { open } from 'node:fs/promises'
import type { BuildWriter } from '../content.ts'
import { diskChunkBytes, type Image } from '../manifest.ts'

/** How many chunks are hashed and compressed at the same time. */
const lanes = 16
const readBytes = 16 * diskChunkBytes

/** Stores a file, chunk by chunk, as the image of a disk. */
export async function storeDisk(writer: BuildWriter, file: string): Promise<Image> {
  await using handle = await open(file)
  const { size } = await handle.stat()
  const count = Math.ceil(size / diskChunkBytes)
  const ids = Buffer.alloc(count * 32)
  const underWay = new Set<Promise<void>>()
  const failed = new AbortController()
  try {
    for (let at = 0; at < size; at += readBytes) {
      failed.signal.throwIfAborted()
      const bytes = Buffer.alloc(Math.min(readBytes, size - at))
      await readFully(handle, bytes, at)
      for (let offset = 0; offset < bytes.length; offset += diskChunkBytes) {
        const chunk = bytes.subarray(offset, offset + diskChunkBytes)
        if (isZero(chunk)) continue
        const number = (at + offset) / diskChunkBytes
        const adding = writer
          .add(chunk)
          .then((id) => {
            ids.set(id, number * 32)
          })
          .catch((error) => failed.abort(error))
          .finally(() => underWay.delete(adding))
        underWay.add(adding)
        if (underWay.size >= lanes) await Promise.race(underWay)
      }
    }
  } finally {
    await Promise.all(underWay)
  }
  failed.signal.throwIfAborted()
  return writer.image({ size, chunkBytes: diskChunkBytes }, (number) => ids.subarray(number * 32, number * 32 + 32))
}

async function readFully(handle: { read: Read }, bytes: Buffer, position: number): Promise<void> {
  for (let read = 0; read < bytes.length; ) {
    const { bytesRead } = await handle.read(bytes, read, bytes.length - read, position + read)
    if (bytesRead === 0) throw new Error('the file ended while it was read')
    read += bytesRead
  }
}

type Read = (buffer: Buffer, offset: number, length: number, position: number) => Promise<{ bytesRead: number }>

const zeros = Buffer.alloc(diskChunkBytes)

function isZero(bytes: Buffer): boolean {
  return bytes[0] === 0 && bytes.equals(zeros.subarray(0, bytes.length))
}
