import { createHash } from 'node:crypto'
import { stagesOf } from '../../recipe/recipe.ts'
import { type Base, beginFrom } from '../begin-from.ts'
import type { BuildScope } from '../build-template.ts'
import { type Origin, type PlannedStep, planSteps } from '../steps/plan-steps.ts'
import { filesElsewhere } from './files-elsewhere.ts'

/** A stage with all that is known of it before anything of it is made. */
export interface StagePlan {
  /** Its place in the recipe, by which later stages copy from it. */
  number: number
  name: string
  base: Base
  steps: PlannedStep[]
  /** How many steps all stages before it have. */
  stepsBefore: number
}

/**
 * Works out all stages in order. What a step copies from a stage or an image is the same as long as the stage or image is:
 * so all keys are known now, and a stage whose files nobody lacks is never built.
 */
export async function planStages(scope: BuildScope): Promise<StagePlan[]> {
  const { recipe, tree, machine } = scope
  const plans: StagePlan[] = []
  let stepsBefore = 0
  const imageOrigin = async (name: string): Promise<Origin> => {
    const { digest } = await scope.obtainImage(name)
    return { key: originKey('image', digest), image: name }
  }
  const stageOrigin = async (number: number): Promise<Origin> => {
    const plan = plans[number]
    if (plan === undefined) throw new Error(`stage ${number} is copied from before it is planned`)
    const { base, steps } = plan
    // Nothing was done to the image, so no machine is needed to look into it.
    if (base.image && steps.every(({ action }) => action.kind === 'none')) return imageOrigin(base.image.name)
    return { key: originKey('stage', steps.at(-1)?.key ?? base.key), stage: number }
  }
  const elsewhere = filesElsewhere(scope, (from) =>
    'image' in from ? imageOrigin(from.image) : stageOrigin(from.stage),
  )
  for (const [number, { name, from, steps: given }] of stagesOf(recipe).entries()) {
    const names = plans.map((plan) => plan.name)
    const base = await beginFrom(scope, from, names)
    const { defaults, key: baseKey, triggers } = base
    const surroundings = { tree, defaults, arch: machine.arch, baseKey, args: triggers.args, elsewhere }
    const steps = await planSteps({ steps: [...triggers.steps, ...given], ...surroundings })
    plans.push({ number, name, base, steps, stepsBefore })
    stepsBefore += steps.length
  }
  return plans
}

function originKey(kind: 'stage' | 'image', key: string): string {
  return createHash('sha256')
    .update(JSON.stringify(['from', 1, kind, key]))
    .digest('hex')
}
