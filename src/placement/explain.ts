import type { NodeId } from '../model/ids.ts'
import type { Move, PlaceMove, Plan, StopMove } from './move.ts'
import type { PlanView } from './view.ts'

export interface Explanation {
  place: number
  stop: number
  keep: number
  /** Copies that would follow, once these moves have made way. */
  later: number
  /** One sentence per slot, in the order of slots: `web/0 would move off node "a": …`. */
  sentences: string[]
}

/** A plan that nobody has carried out, told to people. */
export function explainPlan(plan: Plan, view: PlanView): Explanation {
  const count = (kind: Move['kind']) => plan.moves.filter((move) => move.kind === kind).length
  const moves = plan.moves.toSorted((a, b) => a.slot - b.slot)
  return {
    place: count('place'),
    stop: count('stop'),
    keep: count('keep'),
    later: plan.later,
    sentences: moves.map((move) => `${plan.job}/${move.slot} would ${verb(move, plan, view)}`),
  }
}

function verb(move: Move, plan: Plan, view: PlanView): string {
  if (move.kind === 'place') return placing(move, view)
  const where = nodeName(view, view.allocation(move.expects)?.node)
  if (move.kind === 'stop') return `${stopping[move.cause]} ${where}: ${move.reason}`
  return `go on untouched on ${where} as version ${plan.version}`
}

const stopping: Record<StopMove['cause'], string> = {
  excess: 'stop on',
  leaving: 'move off',
  outdated: 'be replaced on',
}

function placing({ expects, node }: PlaceMove, view: PlanView): string {
  const to = nodeName(view, node)
  const before = expects && view.allocation(expects)
  if (!before) return `start on ${to}`
  const from = nodeName(view, before.node)
  if (before.phase === 'failed') return `be tried again on ${to}: it failed on ${from}`
  if (before.phase === 'lost') return `start anew on ${to}: it was lost with ${from}`
  if (before.phase === 'complete') return `run again on ${to}: it ended on ${from}`
  return `start on ${to}: it was stopped on ${from}`
}

function nodeName(view: PlanView, id: NodeId | undefined): string {
  const name = id && view.node(id)?.name
  return name ? `node "${name}"` : 'a node that is gone'
}
