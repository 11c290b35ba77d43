import type { PlacedStep, Recipe, Step } from '../recipe.ts'
import type { Mistakes, Position } from './places.ts'
import type { Scope } from './scope.ts'
import type { Instruction } from './split-instructions.ts'

/** What has been read of a Dockerfile so far. */
export interface Reading {
  readonly file: string
  readonly mistakes: Mistakes
  readonly notes: Mistakes
  /** Those that have begun, in order; the last is being read. */
  readonly stages: Stage[]
  /** The one being read; before the first FROM, one that holds nothing but arguments. */
  stage: Stage
  /** Names that are no stage above the one (by number) that uses them; judged when all stages are known. */
  readonly images: { name: string; position: Position; keyword: 'FROM' | 'COPY'; stage: number }[]
}

/** From one FROM to the next. */
export interface Stage {
  /** As after AS, or its number. */
  name: string
  scope: Scope
  /** Absent when its FROM is wrong; what comes after it is still read. */
  image?: string
  arch?: 'amd64' | 'arm64'
  /** With those of the stage that it begins from. */
  steps: PlacedStep[]
  /** Set by SHELL; what lines of RUN and CMD are given to. */
  shell: string[] | undefined
  entrypoint?: string | string[]
  command?: string | string[]
  ready?: Exclude<Recipe['ready'], undefined>
  /** What ONBUILD keeps for stages that begin from this one. */
  triggers: Instruction[]
}

/** Adds a step with its place; `text` is what people are shown of it. */
export function addStep({ file, stage }: Reading, instruction: Instruction, step: Step): void {
  const { line } = instruction.position
  stage.steps.push({ step, place: `${file}:${line}`.slice(-200), text: instruction.source.slice(0, 2000) })
}

/** The stage that a name or a number means, and its place in the list; of several with one name the last. */
export function findStage(stages: readonly Stage[], name: string): { stage: Stage; number: number } | undefined {
  const named = stages.findLastIndex((stage) => stage.name === name.toLowerCase())
  const number = named >= 0 ? named : /^\d{1,4}$/.test(name) ? Number(name) : -1
  const stage = stages[number]
  return stage && { stage, number }
}
