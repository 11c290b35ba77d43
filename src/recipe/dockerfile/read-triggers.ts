import { Fault } from '../../model/fault.ts'
import type { PlacedStep, Recipe } from '../recipe.ts'
import { instructions } from './instructions.ts'
import { collectMistakes } from './places.ts'
import type { Reading, Stage } from './reading.ts'
import { Scope } from './scope.ts'
import { splitInstructions } from './split-instructions.ts'
import { unknownInstruction } from './unknown-instruction.ts'

/** What an image asks of those that begin from it. */
export interface Triggers {
  steps: PlacedStep[]
  /** What its ARG declares, for the steps that follow as well; text with variables. */
  args: Readonly<Record<string, string>>
  entrypoint?: string[]
  command?: string[]
  ready?: Recipe['ready']
}

export interface TriggerOptions {
  /** The image's name, for people. */
  image: string
  /** `--build-arg`. */
  buildArgs: Readonly<Record<string, string>>
  /** Names of the stages that `COPY --from` may mean, in order. */
  stages: readonly string[]
}

/**
 * The ONBUILD instructions of an image, in order, as steps. Each is one instruction of a Dockerfile. Throws a Fault `invalid`
 * that names the first that cannot be carried out.
 */
export function readTriggers(triggers: readonly string[], { image, buildArgs, stages }: TriggerOptions): Triggers {
  const file = `ONBUILD of ${image}`
  const scope = Scope.of(buildArgs).forStage()
  const stage: Stage = { name: '', scope, steps: [], shell: undefined, triggers: [] }
  const before = stages.map((name): Stage => ({ ...stage, name, steps: [] }))
  for (const text of triggers) {
    const mistakes = collectMistakes(file)
    const reading: Reading = {
      ...{ file, mistakes, notes: collectMistakes(file), stages: [...before, stage], stage, images: [] },
    }
    const done = stage.steps.length
    const found = splitInstructions(text, mistakes)
    for (const instruction of found) {
      const { keyword, position } = instruction
      const read = Object.hasOwn(instructions, keyword) ? instructions[keyword] : undefined
      if (['FROM', 'ONBUILD', 'MAINTAINER'].includes(keyword))
        mistakes.add(position, `${keyword} cannot follow ONBUILD`)
      else if (read) read(instruction, reading)
      else mistakes.add(position, unknownInstruction(instruction))
    }
    if (found.length !== 1) mistakes.add({ line: 1, column: 1 }, 'it is not one instruction')
    const [mistake] = mistakes.places
    if (mistake)
      throw new Fault(
        'invalid',
        `image "${image}" cannot be begun from: its ONBUILD instruction "${text.slice(0, 200)}": ${mistake.message}`,
      )
    for (const step of stage.steps.slice(done))
      Object.assign(step, { place: file.slice(0, 200), text: `ONBUILD ${step.text}`.slice(0, 2000) })
  }
  const { steps, entrypoint, command, ready } = stage
  return {
    steps,
    args: scope.argsText() ?? {},
    ...(entrypoint === undefined ? {} : { entrypoint: asWords(entrypoint) }),
    ...(command === undefined ? {} : { command: asWords(command) }),
    ...(ready === undefined ? {} : { ready }),
  }
}

function asWords(command: string | string[]): string[] {
  return typeof command === 'string' ? ['/bin/sh', '-c', command] : command
}
