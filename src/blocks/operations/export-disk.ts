import { open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { BuildId } from '../../model/ids.ts'
import { fileFault, realFiles } from '../files.ts'
import { inLanes } from '../store/chunk-reader.ts'
import { chunkCount } from '../store/image-reader.ts'
import { openOf } from './images.ts'
import type { BuildSource } from './source.ts'

/** Writes a build's disk as a raw file with holes where it is zero; the file appears when it is complete. */
export async function exportDisk(
  source: Pick<BuildSource, 'manifest' | 'open'>,
  id: BuildId,
  path: string,
  { signal, onProgress }: { signal?: AbortSignal; onProgress?: (bytes: number) => void } = {},
): Promise<{ size: number; writtenBytes: number }> {
  const manifest = await source.manifest(id)
  const reader = await openOf(source, manifest, manifest.disk)
  const { size, chunkBytes } = manifest.disk
  const unfinished = `${path}.unfinished`
  const numbers = Array.from({ length: chunkCount(manifest.disk) }, (_, n) => n).filter((n) => !reader.isZero(n))
  let writtenBytes = 0
  try {
    await using file = await open(unfinished, 'w', 0o600)
    await file.truncate(size)
    await inLanes(numbers, 16, async (number) => {
      const bytes = await reader.read(number, signal ? { signal } : {})
      await file.write(bytes, 0, bytes.length, number * chunkBytes)
      writtenBytes += bytes.length
      onProgress?.(writtenBytes)
    })
    await file.sync()
    await rename(unfinished, path)
    await realFiles.syncDirectory(dirname(path))
  } catch (error) {
    await rm(unfinished, { force: true })
    if (signal?.aborted) throw signal.reason
    throw fileFault(`cannot export build ${id} to ${path}`, error)
  }
  return { size, writtenBytes }
}
