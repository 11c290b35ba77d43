import type { PlacedStep, Recipe, Step } from '../recipe.ts'
import type { Mistakes } from './places.ts'
import type { Scope } from './scope.ts'
import type { Instruction } from './split-instructions.ts'

/** What has been read of a Dockerfile so far. */
export interface Reading {
  readonly file: string
  readonly mistakes: Mistakes
  readonly notes: Mistakes
  readonly scope: Scope
  readonly steps: PlacedStep[]
  from?: string
  /** There was a FROM, and it was wrong; what comes after it is still read. */
  fromFailed?: boolean
  arch?: 'amd64' | 'arm64'
  /** Set by SHELL; what lines of RUN and CMD are given to. */
  shell: string[] | undefined
  entrypoint?: string | string[]
  command?: string | string[]
  ready?: Exclude<Recipe['ready'], undefined>
}

/** Adds a step with its place; `text` is what people are shown of it. */
export function addStep(reading: Reading, instruction: Instruction, step: Step): void {
  const { line } = instruction.position
  reading.steps.push({ step, place: `${reading.file}:${line}`.slice(-200), text: instruction.source.slice(0, 2000) })
}
