import { formatConstraint } from '../../model/constraint.ts'
import { brokenConstraint } from '../constraint.ts'
import type { NodeRule } from './rule.ts'

/** The conditions that the job sets. The first that fails answers, in the words it was written in. */
export const constraints: NodeRule = {
  name: 'constraints',
  passes: (node, spec) => spec.constraints.length === 0 || brokenConstraint(spec, node) === undefined,
  refusal: (node, spec) => {
    const broken = brokenConstraint(spec, node)
    const text = broken ? formatConstraint(broken) : ''
    return {
      words: [`fails "${text}"`, `fail "${text}"`],
      help: broken?.subject.startsWith('label.')
        ? `label or add a node so that "${text}" holds`
        : `add a node for which "${text}" holds`,
    }
  },
}
