import { isOpen, type Node, type NodePhase } from '../../model/node.ts'
import type { NodeRule } from './rule.ts'

/** Only a connected node that nobody has closed takes new work. */
export const open: NodeRule = {
  name: 'open',
  passes: isOpen,
  refusal: (node) => {
    const words = reason(node)
    return { words, help: help(node) }
  },
}

const notReady: Record<NodePhase, readonly [string, string]> = {
  joined: ['has never connected', 'have never connected'],
  ready: ['has not said yet what it is', 'have not said yet what they are'],
  silent: ['is silent', 'are silent'],
  lost: ['is lost', 'are lost'],
  returning: ['is only just returning', 'are only just returning'],
}

function reason(node: Node): readonly [string, string] {
  if (node.phase !== 'ready') return notReady[node.phase]
  if (node.drain) return ['is draining', 'are draining']
  if (!node.eligible) return ['is closed to new work', 'are closed to new work']
  return notReady.ready
}

function help(node: Node): string {
  if (node.phase === 'lost' || node.phase === 'silent' || node.phase === 'joined') {
    return `start the agent of node "${node.name}"`
  }
  if (node.phase === 'ready' && (node.drain || !node.eligible)) return `open node "${node.name}" to new work`
  return `wait for node "${node.name}"`
}
