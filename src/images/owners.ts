import { createReadStream } from 'node:fs'
import { open, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pipeline, type Readable } from 'node:stream'
import { pipeline as pipelineToEnd } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { extract, type Header } from 'tar-stream'
import { z } from 'zod'

/**
 * Whose the files of an image are, where an ordinary user has unpacked it: the file system then says that all are the
 * user's, and lets the user read what nobody may. Kept beside the files; absent when root has unpacked them.
 */
export type Owners = ReadonlyMap<string, Owner>

export interface Owner {
  uid: number
  gid: number
  /** Permissions, without the type of the file. */
  mode: number
}

const Stored = z.array(z.tuple([z.string(), z.int(), z.int(), z.int()]))

/** Reads owners from the layers of an image, bottom to top; a file is as the last layer that has it says. */
export async function readOwners(layers: readonly string[], signal: AbortSignal): Promise<Owners> {
  const owners = new Map<string, Owner>()
  for (const layer of layers) {
    const entries = extract()
    // Errors come out of the loop as well.
    const feeding = pipelineToEnd(await uncompressed(layer), entries, { signal })
    feeding.catch(() => {})
    for await (const entry of entries) {
      note(entry.header, owners)
      entry.resume()
    }
    await feeding
  }
  return owners
}

function note({ name, type, linkname, uid = 0, gid = 0, mode = 0o644 }: Header, owners: Map<string, Owner>): void {
  const same = type === 'link' ? owners.get(clean(linkname ?? '')) : undefined
  owners.set(clean(name), same ?? { uid, gid, mode: mode & 0o7777 })
}

function clean(name: string): string {
  return name
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/')
}

async function uncompressed(file: string): Promise<Readable> {
  await using handle = await open(file)
  const { buffer } = await handle.read(Buffer.alloc(4), 0, 4, 0)
  const head = buffer.toString('hex')
  const stream = createReadStream(file)
  if (head.startsWith('1f8b')) return pipeline(stream, createGunzip(), () => {})
  return head === '28b52ffd' ? pipeline(stream, createZstdDecompress(), () => {}) : stream
}

/** Puts them beside the files of an image that is being unpacked. */
export async function writeOwners(rootfs: string, owners: Owners): Promise<void> {
  const list = [...owners].map(([path, { uid, gid, mode }]) => [path, uid, gid, mode])
  await writeFile(besides(rootfs), JSON.stringify(list))
}

/** Those of an image's files; undefined when the file system says it. */
export async function ownersOf(rootfs: string): Promise<Owners | undefined> {
  try {
    const list = Stored.parse(JSON.parse(await readFile(besides(rootfs), 'utf8')))
    return new Map(list.map(([path, uid, gid, mode]) => [path, { uid, gid, mode }]))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

function besides(rootfs: string): string {
  return join(dirname(rootfs), 'owners.json')
}
