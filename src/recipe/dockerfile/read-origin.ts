import type { CopyFrom } from '../recipe.ts'
import type { Position } from './places.ts'
import { findStage, type Reading } from './reading.ts'

/** What `--from` or `from=` means: a stage above by name or number, or else an image. */
export function readOrigin(name: string, position: Position, reading: Reading): CopyFrom {
  const { stages, stage, mistakes } = reading
  const found = findStage(stages.slice(0, -1), name)
  if (found) return { stage: found.number }
  if (name === stage.name || /^\d+$/.test(name))
    mistakes.add(position, `--from=${name} is no stage above this one; a stage copies only from those above it`)
  else if (/^$|[:@/]$|\s/.test(name)) mistakes.add(position, '--from needs the name of a stage, or an image')
  else if (name === 'scratch') mistakes.add(position, 'there is nothing in "scratch" to copy')
  reading.images.push({ name, position, keyword: 'COPY', stage: stages.length - 1 })
  return { image: name.slice(0, 1000) }
}
