import type { JobSpec } from '../../model/job.ts'
import type { Node } from '../../model/node.ts'
import { networksOf } from '../needs.ts'
import type { NodeRule } from './rule.ts'

/** The container driver must offer the network its tasks ask for. A driver that does not list its networks offers all. */
export const networks: NodeRule = {
  name: 'networks',
  passes: (node, spec) => firstMissing(node, spec) === undefined,
  refusal: (node, spec) => {
    const network = firstMissing(node, spec) ?? ''
    const offered = node.facts?.drivers['container']?.attributes['networks'] ?? ''
    const has = offered === '' ? '' : ` (only ${listed(offered).join(', ')})`
    return {
      words: [`has no container network "${network}"${has}`, `have no container network "${network}"${has}`],
      help: `use another network, or add a node whose container driver offers "${network}"`,
    }
  },
}

function firstMissing(node: Node, spec: JobSpec): string | undefined {
  const asked = networksOf(spec)
  if (asked.length === 0) return undefined
  const offered = node.facts?.drivers['container']?.attributes['networks']
  if (offered === undefined) return undefined
  const names = listed(offered)
  return asked.find((network) => !names.includes(network))
}

function listed(text: string): string[] {
  return text
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '')
}
