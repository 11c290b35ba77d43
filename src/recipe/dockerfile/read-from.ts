import { formatParts, isKnown } from '../expand.ts'
import { findStage, type Reading, type Stage } from './reading.ts'
import type { Scope } from './scope.ts'
import type { Instruction } from './split-instructions.ts'
import { splitFlags, splitWords, type Word } from './words.ts'

/**
 * `FROM [--platform=…] IMAGE|STAGE [AS name]` begins a stage. One that begins from a stage takes over its steps, which the
 * two then share as layers. `global` is the scope before the first FROM. Gives what ONBUILD kept for it.
 */
export function readFrom(instruction: Instruction, reading: Reading, global: Scope): Instruction[] {
  const { position, arguments: given } = instruction
  const { mistakes, stages } = reading
  const { flags, rest } = splitFlags(given.text)
  const place = (offset: number) => given.at(rest + offset)
  const [image, as, named, more] = splitWords(given.text.slice(rest))
  const name = named && !more && as?.text.toUpperCase() === 'AS' ? named.text.toLowerCase() : String(stages.length)
  const fresh: Stage = { name, scope: global.forStage(), steps: [], shell: undefined, triggers: [] }
  if (image === undefined) {
    mistakes.add(position, 'FROM lacks the image to begin from, such as debian:12')
    begin(reading, fresh)
    return []
  }
  if (as !== undefined && (as.text.toUpperCase() !== 'AS' || named === undefined || more !== undefined))
    mistakes.add(place(as.start), `after the image only "AS name" may stand, not "${as.text}"`)
  else if (named && !/^[a-z][a-z0-9._-]*$/.test(name))
    mistakes.add(
      place(named.start),
      `"${named.text}" cannot name a stage; names begin with a letter, and have letters, digits, "-", "_" and "."`,
    )
  const parts = global.resolve(image.text, (offset) => place(image.start + offset), mistakes)
  const reference = isKnown(parts) ? parts.join('') : formatParts(parts)
  const parent = /^\d+$/.test(reference) ? undefined : findStage(stages, reference)?.stage
  const stage: Stage = parent ? childOf(parent, name) : { ...fresh, ...sourceOf(reference, image, isKnown(parts)) }
  if (stage.image === undefined && !parent)
    mistakes.add(
      place(image.start),
      `"${image.text}" names no image: give its variables with ARG before FROM, or with --build-arg`,
    )
  for (const { name: flag, value = '', start } of flags) {
    if (flag !== 'platform') mistakes.add(given.at(start), `FROM has no flag --${flag}; it has --platform`)
    else readPlatform(value, (message) => mistakes.add(given.at(start), message), stage)
  }
  if (!parent && stage.image !== undefined)
    reading.images.push({ name: stage.image, position: place(image.start), keyword: 'FROM', stage: stages.length })
  begin(reading, stage)
  return parent?.triggers ?? []
}

function begin(reading: Reading, stage: Stage): void {
  reading.stages.push(stage)
  reading.stage = stage
}

function childOf(parent: Stage, name: string): Stage {
  return { ...parent, name, scope: parent.scope.forChild(), steps: [...parent.steps], triggers: [] }
}

function sourceOf(reference: string, { text }: Word, known: boolean): Pick<Stage, 'image'> {
  if (text === '' || /^$|[:@/]$/.test(reference) || !known) return {}
  return { image: reference.slice(0, 1000) }
}

function readPlatform(value: string, wrong: (message: string) => void, stage: Stage): void {
  if (/^\$\{?(BUILD|TARGET)PLATFORM\}?$/.test(value)) return
  const [os, arch, variant] = value.toLowerCase().split('/')
  const known: Record<string, 'amd64' | 'arm64'> = { amd64: 'amd64', x86_64: 'amd64', arm64: 'arm64', aarch64: 'arm64' }
  const found = arch !== undefined && Object.hasOwn(known, arch) ? known[arch] : undefined
  if (os !== 'linux' || found === undefined || (variant !== undefined && variant !== 'v8'))
    wrong(`platform "${value}" cannot be built; there are linux/amd64 and linux/arm64`)
  else stage.arch = found
}
