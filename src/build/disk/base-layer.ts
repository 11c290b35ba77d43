import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Manifest } from '../../blocks/manifest.ts'
import type { BlockServer } from '../../blocks/server/protocol.ts'
import { attributesOf, ownersOf } from '../../images/owners.ts'
import type { Image } from '../../images/store.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Random } from '../../kit/random.ts'
import { BuildId, encodeId } from '../../model/ids.ts'
import type { MachineShape } from '../../model/sandbox.ts'
import { makeFileSystem } from './make-file-system.ts'

export interface BaseLayerOptions {
  blocks: BlockServer
  clock: Clock
  random: Random
  image: Image
  /** For people. */
  name: string
  diskMiB: number
  machine: MachineShape
  /** The layer's name in the store. */
  reference: string
  directory: string
  progress: (message: string) => void
  signal: AbortSignal
}

/** An image's files on a disk, as a build of its own that is found again by its reference. */
export async function makeBaseLayer(options: BaseLayerOptions): Promise<Manifest> {
  const { blocks, clock, random, image, name, diskMiB, machine, reference, directory, progress, signal } = options
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const file = join(directory, 'disk.ext4')
  try {
    progress(`making a disk of ${diskMiB} MiB from ${name}`)
    await makeFileSystem({
      root: image.rootfs,
      owners: await ownersOf(image.rootfs),
      attributes: await attributesOf(image.rootfs),
      file,
      sizeMiB: diskMiB,
      what: `image "${name}"`,
      seed: image.digest,
      signal,
    })
    progress('storing the disk')
    const { manifest } = await blocks.ask(
      'importDisk',
      {
        ...{ file, build: BuildId.parse(encodeId(random.bytes(10))), createdAt: clock.now(), machine, reference },
        defaults: { env: {}, user: 'root', cwd: '/' },
      },
      { signal },
    )
    return manifest
  } finally {
    await rm(file, { force: true })
  }
}
