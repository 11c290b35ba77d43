import type { JobSpec } from '../../model/job.ts'
import type { Node } from '../../model/node.ts'
import { volumesOf } from '../needs.ts'
import type { NodeRule } from './rule.ts'

/** A named volume that the job does not declare itself must be one that the node's owner offers. */
export const volumes: NodeRule = {
  name: 'volumes',
  passes: (node, spec) => firstMissing(node, spec) === undefined,
  refusal: (node, spec) => {
    const volume = firstMissing(node, spec) ?? ''
    return {
      words: [`does not offer volume "${volume}"`, `do not offer volume "${volume}"`],
      help: `offer volume "${volume}" on a node, or declare it under "volumes" of the job`,
    }
  },
}

function firstMissing(node: Node, spec: JobSpec): string | undefined {
  return volumesOf(spec).find((volume) => !node.facts?.volumes.includes(volume))
}
