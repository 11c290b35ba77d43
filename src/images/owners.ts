import { createReadStream } from 'node:fs'
import { open, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pipeline, type Readable } from 'node:stream'
import { pipeline as pipelineToEnd } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { extract, type Header } from 'tar-stream'
import { z } from 'zod'
import { type Attributes, listenForAttributes } from './attributes.ts'

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

/** Extended attributes of the files of an image, by path. */
export type AttributesByPath = ReadonlyMap<string, Attributes>

const StoredAttributes = z.record(z.string(), z.record(z.string(), z.base64()))

const Stored = z.array(z.tuple([z.string(), z.int(), z.int(), z.int()]))

/** Reads owners and extended attributes from the layers of an image, bottom to top; a file is as the last layer that has it says. */
export async function readLayers(
  layers: readonly string[],
  signal: AbortSignal,
): Promise<{ owners: Owners; attributes: AttributesByPath }> {
  const owners = new Map<string, Owner>()
  const attributes = new Map<string, Attributes>()
  for (const layer of layers) {
    const entries = extract()
    // Errors come out of the loop as well.
    const { stream, of } = listenForAttributes()
    const feeding = pipelineToEnd(await uncompressed(layer), stream, entries, { signal })
    feeding.catch(() => {})
    for await (const entry of entries) {
      const { header } = entry
      note(header, owners)
      const path = clean(header.name)
      const found = header.type === 'link' ? attributes.get(clean(header.linkname ?? '')) : of(header)
      if (found) attributes.set(path, found)
      else attributes.delete(path)
      entry.resume()
    }
    await feeding
  }
  return { owners, attributes }
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

/** Puts them beside the files as well: for programs that cannot ask the file system for them. */
export async function writeAttributes(rootfs: string, attributes: AttributesByPath): Promise<void> {
  const stored = [...attributes].map(([path, values]) => [
    path,
    Object.fromEntries(Object.entries(values).map(([name, value]) => [name, value.toString('base64')])),
  ])
  await writeFile(besides(rootfs, 'attributes.json'), JSON.stringify(Object.fromEntries(stored)))
}

/** Those of an image's files; none of one that an earlier version unpacked. */
export async function attributesOf(rootfs: string): Promise<AttributesByPath> {
  try {
    const stored = StoredAttributes.parse(JSON.parse(await readFile(besides(rootfs, 'attributes.json'), 'utf8')))
    const bytes = (values: Record<string, string>): Attributes =>
      Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Buffer.from(value, 'base64')]))
    return new Map(Object.entries(stored).map(([path, values]) => [path, bytes(values)]))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Map()
    throw error
  }
}

function besides(rootfs: string, name = 'owners.json'): string {
  return join(dirname(rootfs), name)
}
