import type { Allocation } from '../model/allocation.ts'
import { Fault } from '../model/fault.ts'
import type { Node } from '../model/node.ts'
import type { Job } from '../model/records.ts'
import type { Sandbox } from '../model/sandbox.ts'
import type { View } from '../store/store.ts'

/** Finders that say what was looked for when it is not there. Ids may be shortened as long as they stay unique. */

export function findJob(view: View, name: string): Job {
  const job = view.get('jobs', name)
  if (!job) throw new Fault('not_found', `there is no job "${name}"; "tutti jobs" lists those that there are`)
  return job
}

export function findNode(view: View, idOrName: string): Node {
  const byId = view.get('nodes', idOrName)
  if (byId) return byId
  for (const node of view.by('nodesByName', idOrName)) return node
  return unique(
    [...view.all('nodes')].filter((node) => node.id.startsWith(idOrName)),
    idOrName,
    'node',
  )
}

export function findAllocation(view: View, id: string): Allocation {
  const exact = view.get('allocations', id)
  if (exact) return exact
  const named = /^(.+)\/(\d+)$/.exec(id)
  if (named) {
    const slot = view.get('slots', id)
    const newest = slot?.allocation ? view.get('allocations', slot.allocation) : undefined
    if (newest) return newest
    throw new Fault(
      'not_found',
      `copy ${named[2]} of job "${named[1]}" has no allocation; "tutti status ${named[1]}" shows why`,
    )
  }
  const found: Allocation[] = []
  if (id.length >= 4)
    for (const allocation of view.all('allocations')) if (allocation.id.startsWith(id)) found.push(allocation)
  return unique(found, id, 'allocation')
}

/** By id, its beginning, or its name: that of one that is not over, or else of the last that is. */
export function findSandbox(view: View, reference: string): Sandbox {
  const exact = view.get('sandboxes', reference)
  if (exact) return exact
  const named = [...view.by('sandboxesByName', reference)]
  if (named.length > 0) return unique(named, reference, 'sandbox')
  const found: Sandbox[] = []
  if (reference.length >= 4) for (const row of view.all('sandboxes')) if (row.id.startsWith(reference)) found.push(row)
  if (found.length === 0) {
    // Who asks for one that is over by its name is to hear what became of it.
    const over = [...view.all('sandboxes')].filter(({ name }) => name === reference)
    found.push(...over.sort((one, other) => other.createdAt - one.createdAt).slice(0, 1))
  }
  return unique(found, reference, 'sandbox')
}

const listedBy = { node: 'nodes', allocation: 'ps -a', sandbox: 'sandbox list' }

function unique<T extends { id: string }>(found: T[], asked: string, noun: keyof typeof listedBy): T {
  const [first] = found
  if (first && found.length === 1) return first
  if (!first)
    throw new Fault('not_found', `there is no ${noun} "${asked}"; "tutti ${listedBy[noun]}" lists those there are`)
  throw new Fault(
    'conflict',
    `"${asked}" could be any of ${found.length} ${noun === 'sandbox' ? 'sandboxes' : `${noun}s`}, such as ${found
      .slice(0, 3)
      .map((row) => row.id)
      .join(', ')}; give more of the id`,
  )
}
