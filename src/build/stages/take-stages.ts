import { join } from 'node:path'
import type { Selected } from '../../recipe/context/select-source.ts'
import type { Base } from '../begin-from.ts'
import type { BuildScope } from '../build-template.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import { machineFiles } from '../copy/machine-files.ts'
import { selectFrom } from '../copy/other-files.ts'
import type { BuildMachine } from '../machine.ts'
import { type CopyAction, copiesOf, type PlannedStep } from '../steps/plan-steps.ts'
import { lastLayer, type StepsTaken, takeSteps, withPlace } from '../steps/take-steps.ts'
import type { StagePlan } from './plan-stages.ts'

/** What steps copy from stages, by the key of the copy. */
export type Exports = Map<string, readonly Selected<ReceivedEntry>[]>

/**
 * Builds what is lacking. From the last stage back it is seen which stages are copied from by steps that no earlier build
 * has taken; those are built in order, each in a machine of its own, out of which the files are taken before it ends.
 */
export async function takeStages(scope: BuildScope, plans: readonly StagePlan[]): Promise<StepsTaken & { base: Base }> {
  const copies = await neededCopies(scope, plans)
  const exports: Exports = new Map()
  const last = plans.length - 1
  let result: (StepsTaken & { base: Base }) | undefined
  for (const plan of plans) {
    const wanted = copies.get(plan.number) ?? []
    if (wanted.length === 0 && plan.number < last) continue
    if (plan.number < last) scope.report('stage', `stage "${plan.name}"`)
    const atEnd =
      wanted.length === 0 ? undefined : (guest: BuildMachine) => exportFiles(scope, plan, guest, wanted, exports)
    const taken = await takeSteps({ ...scope, plan, exports, stepsInAll: stepsIn(plans), atEnd })
    result = { ...taken, base: plan.base }
  }
  if (!result) throw new Error('a recipe has no stage')
  return result
}

function stepsIn(plans: readonly StagePlan[]): number {
  const { stepsBefore = 0, steps = [] } = plans.at(-1) ?? {}
  return stepsBefore + steps.length
}

interface Wanted {
  step: PlannedStep
  key: string
  copy: CopyAction
}

/** For each stage what is copied from it by steps that are not taken yet. */
async function neededCopies(scope: BuildScope, plans: readonly StagePlan[]): Promise<Map<number, Wanted[]>> {
  const copies = new Map<number, Wanted[]>()
  for (const { number, steps } of plans.toReversed()) {
    if (number < plans.length - 1 && !copies.has(number)) continue
    const found = await lastLayer(scope, steps)
    for (const step of steps.slice(found?.step.number ?? 0))
      for (const { key, copy } of copiesOf(step)) {
        if (!copy.from || !('stage' in copy.from)) continue
        const { stage } = copy.from
        const known = copies.get(stage) ?? []
        if (!known.some((each) => each.key === key)) copies.set(stage, [...known, { step, key, copy }])
      }
  }
  return copies
}

async function exportFiles(
  scope: BuildScope,
  { name }: StagePlan,
  { channel }: BuildMachine,
  wanted: readonly Wanted[],
  exports: Exports,
): Promise<void> {
  const of = `stage "${name}"`
  for (const { step, key, copy } of wanted) {
    const directory = join(scope.directory, `from-${key}`)
    const files = machineFiles(channel, { directory, of, signal: scope.signal })
    exports.set(key, await withPlace(scope, step, () => selectFrom(files, copy.wanted, of)))
  }
}
