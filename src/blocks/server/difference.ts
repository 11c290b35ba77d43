import { renameSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { ContentStore } from '../content.ts'
import { pageBytes, type Run } from '../memory/mapping.ts'
import { writeRuns } from '../memory/pages-file.ts'

/** So many chunks are read at once. */
const parallel = 32

/** Writes the chunks of a build's memory that are not the base's to a file of pages; they have to be of the same shape. */
export async function writeDifference(
  content: ContentStore,
  { build, base, into }: { build: BuildId; base: BuildId; into: string },
): Promise<void> {
  const [ours, theirs] = await Promise.all([openMemory(content, build), openMemory(content, base)])
  const { size, chunkBytes } = ours.image
  if (theirs.image.size !== size || theirs.image.chunkBytes !== chunkBytes)
    throw new Fault('invalid', `the memory of build ${build} does not have the shape of that of build ${base}`)
  const numbers: number[] = []
  for (let number = 0; number * chunkBytes < size; number += 1)
    if (Buffer.compare(ours.id(number), theirs.id(number)) !== 0) numbers.push(number)
  const runs: Run[] = []
  const file = await open(`${into}.part`, 'w', 0o600)
  try {
    for (let at = 0; at < numbers.length; at += parallel) {
      const some = numbers.slice(at, at + parallel)
      const chunks = await Promise.all(some.map((number) => ours.read(number)))
      await file.writev(chunks)
      for (const number of some) {
        const first = (number * chunkBytes) / pageBytes
        const count = Math.min(chunkBytes, size - number * chunkBytes) / pageBytes
        const last = runs.at(-1)
        if (last && last.first + last.count === first) last.count += count
        else runs.push({ first, count })
      }
    }
  } finally {
    await file.close()
  }
  renameSync(`${into}.part`, into)
  writeRuns(into, runs)
}

async function openMemory(content: ContentStore, build: BuildId) {
  const { snapshot, packs } = await content.manifest(build)
  if (snapshot === null) throw new Fault('invalid', `build ${build} is of a disk only: it has no memory`)
  return content.open(snapshot.memory, { packs, build })
}
