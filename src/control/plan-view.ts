import { versionKey } from '../model/records.ts'
import type { PlanView } from '../placement/view.ts'
import type { View } from '../store/store.ts'

/** The store's view as planning wants to see it. */
export function planView(view: View): PlanView {
  return {
    nodes: () => view.all('nodes'),
    node: (id) => view.get('nodes', id),
    slots: (job) => view.by('slotsByJob', job),
    allocation: (id) => view.get('allocations', id),
    allocations: (job) => view.by('allocationsByJob', job),
    spec: (job, version) => view.get('jobVersions', versionKey(job, version))?.spec,
  }
}
