import type { z } from 'zod'
import { closest } from '../../kit/nearest.ts'
import { Fault, type FaultPlace } from '../../model/fault.ts'
import { type CopyFrom, originsOf, type PlacedStep, type Recipe, type Stage as RecipeStage } from '../recipe.ts'
import { instructions } from './instructions.ts'
import { collectMistakes } from './places.ts'
import { readFrom } from './read-from.ts'
import { findStage, type Reading, type Stage } from './reading.ts'
import { Scope } from './scope.ts'
import { type Instruction, splitInstructions } from './split-instructions.ts'
import { unknownInstruction } from './unknown-instruction.ts'

export interface ReadDockerfile {
  recipe: Pick<z.input<typeof Recipe>, 'from' | 'arch' | 'start' | 'ready'> & {
    steps: PlacedStep[]
    stages?: RecipeStage[]
  }
  /** What was accepted and does nothing here, or was understood in a way worth knowing. */
  notes: FaultPlace[]
}

export interface DockerfileOptions {
  /** For places. */
  file: string
  /** `--build-arg`; may be secret. */
  buildArgs?: Readonly<Record<string, string>>
  /** The stage to build, by name or number; by default the last. */
  target?: string | undefined
}

export const maxDockerfileBytes = 512 * 1024
const maxMistakes = 100

/**
 * What a Dockerfile says, as steps of a recipe. Variables are filled in as far as they are known here. Stages that the
 * target does not need are read and left out. Throws a Fault `invalid` that names every mistake by line and column.
 */
export function readDockerfile(text: string, { file, buildArgs = {}, target }: DockerfileOptions): ReadDockerfile {
  const mistakes = collectMistakes(file)
  const notes = collectMistakes(file)
  const scope = Scope.of(buildArgs)
  const before: Stage = { name: '', scope, steps: [], shell: undefined, triggers: [] }
  const reading: Reading = { file, mistakes, notes, stages: [], stage: before, images: [] }
  if (Buffer.byteLength(text) > maxDockerfileBytes)
    mistakes.add({ line: 1, column: 1 }, `it is over ${maxDockerfileBytes / 1024} KiB; is it the right file?`)
  else
    for (const instruction of splitInstructions(text, mistakes)) {
      if (instruction.keyword !== 'FROM') readInstruction(instruction, reading)
      else for (const trigger of readFrom(instruction, reading, scope)) readInstruction(trigger, reading)
      if (mistakes.places.length > maxMistakes) break
    }
  judgeImages(reading)
  if (mistakes.places.length === 0 && reading.stages.length === 0)
    mistakes.add({ line: 1, column: 1 }, 'it has no FROM; a Dockerfile begins with FROM and the image to begin from')
  const made = mistakes.places.length === 0 ? chooseStages(reading, target) : undefined
  if (made === undefined || mistakes.places.length > 0) throw dockerfileFault(mistakes.places)
  for (const name of scope.unused())
    notes.add({ line: 1, column: 1 }, `--build-arg ${name} is declared by no ARG, and was not used`)
  const { from, steps, stages, arch, last } = made
  for (const { position } of last.triggers)
    notes.add(
      position,
      'ONBUILD changes nothing here: it is for images that begin from this one, and a template is none',
    )
  const start = startOf(last)
  return {
    recipe: {
      from,
      steps,
      ...(stages.length === 0 ? {} : { stages }),
      ...(arch === undefined ? {} : { arch }),
      ...(start === undefined ? {} : { start }),
      ...(last.ready === undefined ? {} : { ready: last.ready }),
    },
    notes: notes.places,
  }
}

function readInstruction(instruction: Instruction, reading: Reading): void {
  const { keyword, position } = instruction
  const read = Object.hasOwn(instructions, keyword) ? instructions[keyword] : undefined
  if (!read) reading.mistakes.add(position, unknownInstruction(instruction))
  else if (reading.stages.length === 0 && keyword !== 'ARG')
    reading.mistakes.add(position, `${keyword} stands before FROM; a Dockerfile begins with FROM`)
  else read(instruction, reading)
}

/** Names that were taken for images, and are those of stages further down, or nearly those of stages. */
function judgeImages({ images, stages, mistakes, notes }: Reading): void {
  for (const { name, position, keyword, stage } of images) {
    const isBelow = stages.slice(stage + 1).some((each) => each.name === name.toLowerCase())
    const near = closest(
      name,
      stages.map((each) => each.name).filter((each) => !/^\d+$/.test(each)),
    )
    if (isBelow && keyword === 'COPY')
      mistakes.add(position, `stage "${name}" stands further down; a stage copies only from those above it`)
    else if (isBelow)
      notes.add(position, `"${name}" means an image here, since the stage of that name stands further down`)
    else if (keyword === 'COPY' && near !== undefined && near !== name && !/[:/]/.test(name))
      notes.add(position, `"${name}" is no stage of this file, so it means an image; did you mean "${near}"?`)
  }
}

/** The stages that the target needs, in order, and the target itself last. */
function chooseStages({ stages, mistakes }: Reading, target: string | undefined) {
  const found = target === undefined ? { number: stages.length - 1 } : findStage(stages, target)
  if (!found) {
    const names = stages.map(({ name }) => `"${name}"`).join(', ')
    mistakes.add({ line: 1, column: 1 }, `it has no stage "${target}" to build; its stages are ${names}`)
    return undefined
  }
  const needed = new Set([found.number])
  for (let at = found.number; at >= 0; at -= 1)
    if (needed.has(at)) for (const number of stagesCopied(stages[at]?.steps ?? [])) needed.add(number)
  const numbers = [...needed].sort((a, b) => a - b)
  const chosen = numbers.flatMap((number) => stages[number] ?? [])
  const architectures = [...new Set(chosen.flatMap(({ arch }) => arch ?? []))]
  if (architectures.length > 1)
    mistakes.add(
      { line: 1, column: 1 },
      `its stages are for ${architectures.join(' and ')}, and a template is built on one machine; keep one --platform`,
    )
  const made = chosen.map(({ name, image = '', steps }) => ({
    name,
    from: { image },
    steps: steps.map((step) => renumber(step, numbers)),
  }))
  const last = chosen.at(-1)
  const [final] = made.splice(-1)
  if (!last || !final) return undefined
  return { from: final.from, steps: final.steps, stages: made, arch: architectures[0], last }
}

function stagesCopied(steps: readonly PlacedStep[]): number[] {
  return steps.flatMap(({ step }) => originsOf(step)).flatMap((from) => ('stage' in from ? [from.stage] : []))
}

/** The same step, where of all stages only `numbers` are left. */
function renumber(placed: PlacedStep, numbers: readonly number[]): PlacedStep {
  const change = <T extends { from?: CopyFrom | undefined }>(copies: T): T =>
    copies.from && 'stage' in copies.from ? { ...copies, from: { stage: numbers.indexOf(copies.from.stage) } } : copies
  const { step } = placed
  if (step.kind === 'copy') return { ...placed, step: change(step) }
  if (step.kind !== 'run' || !step.mounts) return placed
  const mounts = step.mounts.map((mount) => (mount.kind === 'bind' ? change(mount) : mount))
  return { ...placed, step: { ...step, mounts } }
}

/** ENTRYPOINT and CMD together, as Docker puts them together. */
function startOf({ entrypoint, command, shell }: Stage): ReadDockerfile['recipe']['start'] {
  if (entrypoint === undefined) return command === undefined ? undefined : { afterEntrypoint: command }
  if (entrypoint.length === 0) return command
  // A shell's line takes no arguments.
  if (typeof entrypoint === 'string' || command === undefined) return entrypoint
  const words = typeof command === 'string' ? [...(shell ?? ['/bin/sh', '-c']), command] : command
  return [...entrypoint, ...words]
}

function dockerfileFault(places: readonly FaultPlace[]): Fault {
  const sorted = places
    .toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0))
    .slice(0, maxMistakes)
  const [first] = sorted
  const text =
    sorted.length === 1 && first
      ? `${first.file}:${first.line}:${first.column}: ${first.message}`
      : `${first?.file} has ${sorted.length} mistakes`
  return new Fault('invalid', text, { places: sorted })
}
