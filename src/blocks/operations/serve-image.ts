import { createServer } from 'node:net'
import type { ImageReader } from '../content.ts'
import { type NbdConnection, serveConnection } from '../nbd/connection.ts'
import { errorWithCode, type NbdExport } from '../nbd/export.ts'

/** Decompressed chunks that are kept; more than all requests that are under way at the same time need. */
const keptBytes = 128 * 1024 * 1024

/**
 * Serves an image over NBD on a Unix socket, to be read, straight from where its chunks lie: for looking at a build that
 * no machine runs. `onProblem` hears of what could not be read, of which the reader learns no more than that.
 */
export async function serveImage(
  reader: ImageReader,
  { socket, onProblem }: { socket: string; onProblem: (error: unknown) => void },
): Promise<AsyncDisposable> {
  const target = exportOf(reader, onProblem)
  const connections = new Set<NbdConnection>()
  const server = createServer((client) => {
    const connection = serveConnection(client, target)
    connections.add(connection)
    client.on('close', () => connections.delete(connection))
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(socket, resolve)
  })
  return {
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const connection of connections) connection.end()
      await closed
    },
  }
}

function exportOf(reader: ImageReader, onProblem: (error: unknown) => void): NbdExport {
  const { size, chunkBytes } = reader.image
  const chunks = new Map<number, Buffer>()
  const fetch = async (number: number): Promise<void> => {
    const bytes = await reader.read(number).catch((error: unknown) => {
      onProblem(error)
      throw errorWithCode('EIO', 'the image cannot be read')
    })
    chunks.set(number, bytes)
    for (const [oldest] of chunks) {
      if (chunks.size * chunkBytes <= keptBytes) break
      chunks.delete(oldest)
    }
  }
  const refuse = (): never => {
    throw errorWithCode('EPERM', 'a build cannot be changed')
  }
  return {
    size,
    readOnly: true,
    prepare(offset, length) {
      const missing: number[] = []
      for (let number = Math.floor(offset / chunkBytes); number * chunkBytes < offset + length; number++) {
        const here = chunks.get(number)
        if (here) {
          // Used last, so it goes last.
          chunks.delete(number)
          chunks.set(number, here)
        } else if (!reader.isZero(number)) missing.push(number)
      }
      return missing.length === 0 ? undefined : Promise.all(missing.map(fetch)).then(() => {})
    },
    read(offset, into) {
      for (let at = 0; at < into.length; ) {
        const number = Math.floor((offset + at) / chunkBytes)
        const from = offset + at - number * chunkBytes
        const length = Math.min(into.length - at, chunkBytes - from)
        if (reader.isZero(number)) into.fill(0, at, at + length)
        else {
          const bytes = chunks.get(number)
          if (!bytes) throw errorWithCode('EIO', 'too many reads at once')
          bytes.copy(into, at, from, from + length)
        }
        at += length
      }
    },
    write: refuse,
    zero: refuse,
    flush: async () => {},
  }
}
