import type { z } from 'zod'
import { Fault, type FaultPlace } from '../../model/fault.ts'
import type { PlacedStep, Recipe } from '../recipe.ts'
import { instructions } from './instructions.ts'
import { collectMistakes } from './places.ts'
import type { Reading } from './reading.ts'
import { Scope } from './scope.ts'
import { splitInstructions } from './split-instructions.ts'
import { unknownInstruction } from './unknown-instruction.ts'

export interface ReadDockerfile {
  recipe: Pick<z.input<typeof Recipe>, 'from' | 'arch' | 'start' | 'ready'> & { steps: PlacedStep[] }
  /** What was accepted and does nothing here, or was understood in a way worth knowing. */
  notes: FaultPlace[]
}

export interface DockerfileOptions {
  /** For places. */
  file: string
  /** `--build-arg`; may be secret. */
  buildArgs?: Readonly<Record<string, string>>
}

export const maxDockerfileBytes = 512 * 1024
const maxMistakes = 100

/**
 * What a Dockerfile says, as steps of a recipe. Variables are filled in as far as they are known here. Throws a Fault
 * `invalid` that names every mistake by line and column.
 */
export function readDockerfile(text: string, { file, buildArgs = {} }: DockerfileOptions): ReadDockerfile {
  const mistakes = collectMistakes(file)
  const notes = collectMistakes(file)
  const reading: Reading = { file, mistakes, notes, scope: new Scope(buildArgs), steps: [], shell: undefined }
  if (Buffer.byteLength(text) > maxDockerfileBytes)
    mistakes.add({ line: 1, column: 1 }, `it is over ${maxDockerfileBytes / 1024} KiB; is it the right file?`)
  else
    for (const instruction of splitInstructions(text, mistakes)) {
      const read = Object.hasOwn(instructions, instruction.keyword) ? instructions[instruction.keyword] : undefined
      const isEarly = reading.from === undefined && !['FROM', 'ARG'].includes(instruction.keyword)
      if (!read) mistakes.add(instruction.position, unknownInstruction(instruction))
      else if (isEarly && !reading.fromFailed)
        mistakes.add(instruction.position, `${instruction.keyword} stands before FROM; a Dockerfile begins with FROM`)
      else read(instruction, reading)
      if (mistakes.places.length > maxMistakes) break
    }
  if (mistakes.places.length === 0 && reading.from === undefined)
    mistakes.add({ line: 1, column: 1 }, 'it has no FROM; a Dockerfile begins with FROM and the image to begin from')
  const { from } = reading
  if (from === undefined || mistakes.places.length > 0) throw dockerfileFault(mistakes.places)
  for (const name of reading.scope.unused())
    notes.add({ line: 1, column: 1 }, `--build-arg ${name} is declared by no ARG, and was not used`)
  const { arch, steps, ready } = reading
  const start = startOf(reading)
  return {
    recipe: {
      from: { image: from },
      steps,
      ...(arch === undefined ? {} : { arch }),
      ...(start === undefined ? {} : { start }),
      ...(ready === undefined ? {} : { ready }),
    },
    notes: notes.places,
  }
}

/** ENTRYPOINT and CMD together, as Docker puts them together. */
function startOf({ entrypoint, command, shell }: Reading): ReadDockerfile['recipe']['start'] {
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
