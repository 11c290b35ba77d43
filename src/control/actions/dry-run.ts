import type { JobSpec } from '../../model/job.ts'
import { explainPlan } from '../../placement/explain.ts'
import { plan } from '../../placement/plan.ts'
import type { Control } from '../control.ts'
import { planView } from '../plan-view.ts'
import { currentUsage } from '../usage.ts'
import { nextJob } from './apply-job.ts'

/** What applying a spec would do. */
export interface DryRun {
  /** `nodes`: new allocations by node name. */
  moves: { place: number; stop: number; keep: number; nodes: Record<string, number> }
  /** One sentence per slot that something would happen to. */
  steps: string[]
  blocked: string
}

/** Plans a spec against the state as it is, by the same code as the real thing, and commits nothing. */
export function dryRun(control: Control, spec: JobSpec): DryRun {
  const { store, clock } = control
  const current = store.view.get('jobs', spec.name)
  const job = nextJob(current, spec, clock.now()) ?? current
  if (!job) return { moves: { place: 0, stop: 0, keep: 0, nodes: {} }, steps: [], blocked: '' }
  const view = planView(store.view)
  // A fixed seed: asking twice gives the same answer.
  const made = plan(view, currentUsage(control), job, { now: clock.now(), seed: 1 })
  const { place, stop, keep, sentences } = explainPlan(made, view)
  const nodes: Record<string, number> = {}
  for (const move of made.moves) {
    if (move.kind !== 'place') continue
    const name = view.node(move.node)?.name ?? move.node
    nodes[name] = (nodes[name] ?? 0) + 1
  }
  return { moves: { place, stop, keep, nodes }, steps: sentences, blocked: made.blocked }
}
