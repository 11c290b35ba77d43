import type { JobSpec } from '../../model/job.ts'
import type { Node } from '../../model/node.ts'
import { driversOf } from '../needs.ts'
import type { NodeRule } from './rule.ts'

/** Every driver that the tasks name must be there and well. A sick one says itself why, and what to install. */
export const drivers: NodeRule = {
  name: 'drivers',
  passes: (node, spec) => {
    for (const driver of driversOf(spec)) if (!node.facts?.drivers[driver]?.healthy) return false
    return true
  },
  refusal: (node, spec) => {
    const driver = firstMissing(node, spec)
    const facts = node.facts?.drivers[driver]
    if (!facts) {
      return {
        words: [`has no driver "${driver}"`, `have no driver "${driver}"`],
        help: `add a node with driver "${driver}"`,
      }
    }
    const why = facts.reason ? ` (${trimmed(facts.reason)})` : ''
    return {
      words: [`has an unhealthy driver "${driver}"${why}`, `have an unhealthy driver "${driver}"${why}`],
      help: facts.remedy ? trimmed(facts.remedy) : `repair driver "${driver}" on node "${node.name}"`,
    }
  },
}

function firstMissing(node: Node, spec: JobSpec): string {
  return driversOf(spec).find((driver) => !node.facts?.drivers[driver]?.healthy) ?? ''
}

/** Without the full stop: it stands inside another sentence. */
function trimmed(sentence: string): string {
  return sentence.trim().replace(/\.$/, '')
}
