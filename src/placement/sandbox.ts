import { isOpen, type Node } from '../model/node.ts'
import type { MachineShape } from '../model/sandbox.ts'
import { hasRoom, roomRefusal } from './fit.ts'
import { mix } from './mix.ts'
import { whyRefused } from './nowhere.ts'
import type { Ask } from './room.ts'
import { open } from './rules/open.ts'
import type { Refusal } from './rules/rule.ts'
import type { Usage } from './usage.ts'

/** "Place it now, or tell me why": where a sandbox may start, by the same rules about room as jobs. */
export interface SandboxWish {
  machine: MachineShape | null
  /** Nodes that have what it starts from; null: any node could make it. */
  nodes: ReadonlySet<string> | null
  /** The node must run a VMM of this `compat`; empty: any. */
  compat: string
  /** Only this node, or any. */
  node?: string | undefined
  /** What it holds there, which depends on how far the node's owner lets reservations go. */
  askOf(node: Node): Ask
  /** Starts that are under way or wait there. */
  waiting(node: Node): number
  /** Nodes that have just refused. */
  without: ReadonlySet<string>
}

export type SandboxPlace = { node: Node; ask: Ask } | { problem: string; isFull: boolean }

/**
 * Of the nodes that can take it, one with few starts under way and much memory free. All are looked at: there are far
 * fewer nodes than sandboxes.
 */
export function placeSandbox(usage: Usage, wish: SandboxWish, seed: number): SandboxPlace {
  let best: { node: Node; ask: Ask; cost: number; tie: number } | undefined
  for (let row = 0; row < usage.rows; row += 1) {
    const node = usage.node(row)
    if (!node || !usage.isOpen(row) || natureRefusal(node, wish)) continue
    const ask = wish.askOf(node)
    const room = usage.room(row)
    if (!hasRoom(room, ask)) continue
    const used = room.memory === 0 ? 1 : (room.usedMemory + ask.memory) / room.memory
    const cost = wish.waiting(node) / 8 + used
    const tie = mix(seed, usage.hash(row))
    if (!best || cost < best.cost || (cost === best.cost && tie < best.tie)) best = { node, ask, cost, tie }
  }
  if (best) return best
  let isFull = false
  const problem = whyRefused(usage, (row) => {
    const node = usage.node(row)
    if (!node) return undefined
    const refusal = natureRefusal(node, wish)
    if (refusal) return refusal
    const lack = roomRefusal(usage.room(row), wish.askOf(node))
    if (lack) isFull = true
    return lack
  })
  return { problem, isFull }
}

/** What a node is, rather than what it has left. */
function natureRefusal(node: Node, wish: SandboxWish): Refusal | undefined {
  if (wish.node !== undefined && node.id !== wish.node)
    return { words: ['is not the one asked for', 'are not the one asked for'], help: 'ask for no node' }
  if (!isOpen(node)) return open.refusal(node, undefined as never)
  if (wish.without.has(node.id)) {
    return { words: ['refused it just now', 'refused it just now'], help: 'try again in a moment' }
  }
  const driver = node.facts?.drivers.sandbox
  if (!driver) {
    return {
      words: ['has no driver "sandbox"', 'have no driver "sandbox"'],
      help: 'add a node that can run sandboxes: "tutti doctor" says there what it needs',
    }
  }
  if (!driver.healthy) {
    const why = driver.reason ? ` (${driver.reason.trim().replace(/\.$/, '')})` : ''
    return {
      words: [`has an unhealthy driver "sandbox"${why}`, `have an unhealthy driver "sandbox"${why}`],
      help: driver.remedy?.trim().replace(/\.$/, '') ?? `repair driver "sandbox" on node "${node.name}"`,
    }
  }
  if (wish.machine && node.facts?.arch !== wish.machine.arch) {
    return {
      words: [`is not of architecture ${wish.machine.arch}`, `are not of architecture ${wish.machine.arch}`],
      help: `add a node of architecture ${wish.machine.arch}, or build the template for the nodes there are`,
    }
  }
  if (wish.nodes && !wish.nodes.has(node.id)) {
    return {
      words: ['does not have the build', 'do not have the build'],
      help: 'build the template there, or give the nodes a shared store',
    }
  }
  const compat = driver.attributes.compat ?? ''
  if (wish.compat !== '' && compat !== '' && compat !== wish.compat) {
    return {
      words: [
        `has another VMM than the build was saved by (${wish.compat})`,
        `have another VMM than the build was saved by (${wish.compat})`,
      ],
      help: 'build the template anew',
    }
  }
  return undefined
}
