import type { ContentStore } from '../content.ts'
import type { Manifest } from '../manifest.ts'
import type { ParsedRequest } from './protocol.ts'
import { storeDisk } from './store-disk.ts'

/** A disk that lies in a file, as a build of its own that is kept by its reference. */
export async function importDisk(content: ContentStore, request: ParsedRequest<'importDisk'>): Promise<Manifest> {
  const { file, build, createdAt, machine, defaults, reference } = request
  await using writer = await content.write()
  const disk = await storeDisk(writer, file)
  const manifest = await writer.publish({
    ...{ id: build, createdAt, reason: 'layer', parent: null, machine, disk, snapshot: null, defaults },
  })
  await content.setReference(reference, manifest.id)
  return manifest
}
