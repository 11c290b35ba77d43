import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { ContentStore } from '../../blocks/content.ts'
import type { Manifest } from '../../blocks/manifest.ts'
import type { Image } from '../../images/store.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Random } from '../../kit/random.ts'
import { BuildId, encodeId } from '../../model/ids.ts'
import type { MachineShape } from '../../model/sandbox.ts'
import { makeFileSystem } from './make-file-system.ts'
import { storeDisk } from './store-disk.ts'

export interface BaseLayerOptions {
  content: ContentStore
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
  const { content, clock, random, image, name, diskMiB, machine, reference, directory, progress, signal } = options
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const file = join(directory, 'disk.ext4')
  try {
    progress(`making a disk of ${diskMiB} MiB from ${name}`)
    await makeFileSystem({
      root: image.rootfs,
      file,
      sizeMiB: diskMiB,
      what: `image "${name}"`,
      seed: image.digest,
      signal,
    })
    progress('storing the disk')
    await using writer = await content.write()
    const disk = await storeDisk(writer, file, { progress: () => {}, signal })
    const manifest = await writer.publish({
      id: BuildId.parse(encodeId(random.bytes(10))),
      createdAt: clock.now(),
      reason: 'layer',
      parent: null,
      machine,
      disk,
      snapshot: null,
      defaults: { env: {}, user: 'root', cwd: '/' },
    })
    await content.setReference(reference, manifest.id)
    return manifest
  } finally {
    await rm(file, { force: true })
  }
}
