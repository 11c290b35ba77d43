import type { Duplex } from 'node:stream'
import { json } from 'node:stream/consumers'
import { z } from 'zod'
import { ExecRequest, publicAllocation, TaskStats } from '../contract/allocation.ts'
import { page } from '../contract/page.ts'
import { restartAllocation } from '../control/actions/restart-job.ts'
import { stopAllocation } from '../control/actions/stop-allocation.ts'
import type { Control } from '../control/control.ts'
import { findAllocation, findNode } from '../control/find.ts'
import type { Sessions } from '../control/sessions/sessions.ts'
import { OctetAnswer, type SocketHandler } from '../http/route.ts'
import { type Allocation, isLive } from '../model/allocation.ts'
import { Fault } from '../model/fault.ts'
import { versionKey } from '../model/records.ts'
import type { View } from '../store/store.ts'
import { recordAccess } from './access.ts'
import { serveExec } from './exec.ts'
import type { Handlers } from './handlers.ts'
import { interleave } from './logs.ts'

type AllocationHandlers = Pick<
  Handlers,
  | 'listAllocations'
  | 'getAllocation'
  | 'stopAllocation'
  | 'restartAllocation'
  | 'signalAllocation'
  | 'allocationStats'
  | 'allocationLogs'
>

interface Options {
  control: Control
  sessions: Sessions
}

export function allocationHandlers({ control, sessions }: Options): AllocationHandlers {
  const { store } = control
  const find = (reference: string) => findAllocation(store.view, reference)
  return {
    listAllocations: ({ query }) => {
      const { rows, next } = page(asked(store.view, query), (row) => row.id, query)
      return { allocations: rows.map(publicAllocation), next, index: store.index }
    },
    getAllocation: ({ params }) => {
      const allocation = find(params.allocation)
      const nodeName = store.view.get('nodes', allocation.node)?.name ?? allocation.node
      return { allocation: publicAllocation(allocation), nodeName, index: store.index }
    },
    stopAllocation: async ({ params, caller }) => {
      const { id } = find(params.allocation)
      const { index } = await stopAllocation(control, id, { by: caller.name })
      return { allocation: id, index }
    },
    restartAllocation: async ({ params, caller }) => {
      const { id } = find(params.allocation)
      const { index } = await restartAllocation(control, id, { by: caller.name })
      return { allocation: id, index }
    },
    signalAllocation: async ({ params, body, signal, caller }) => {
      const allocation = live(find(params.allocation))
      recordAccess(control, {
        by: caller.name,
        action: 'allocation.signal',
        subject: `${allocation.id} ${body.signal}`,
      })
      const request = { allocation: allocation.id, task: body.task, signal: body.signal }
      const stream = await sessions.open(allocation.node, 'signal', request, { signal })
      await drain(stream)
      return { allocation: allocation.id }
    },
    allocationStats: async ({ params, signal }) => {
      const allocation = live(find(params.allocation))
      const stream = await sessions.open(allocation.node, 'stats', { allocation: allocation.id }, { signal })
      stream.end()
      return StatsAnswer.parse(await json(stream))
    },
    allocationLogs: async ({ params, query, signal }) => {
      const allocation = find(params.allocation)
      const task = query.task ?? firstMain(store.view, allocation)
      const open = (stream: 'stdout' | 'stderr') =>
        sessions.open(
          allocation.node,
          'logs',
          { allocation: allocation.id, task, stream, follow: query.follow, tail: query.tail },
          { signal },
        )
      if (query.stream !== 'both')
        return new OctetAnswer(endHalf(await open(query.stream)), 'text/plain; charset=utf-8')
      const [stdout, stderr] = await Promise.all([open('stdout'), open('stderr')])
      return new OctetAnswer(interleave(endHalf(stdout), endHalf(stderr)))
    },
  }
}

/** The exec WebSocket of a task. */
export function execSocket({ control, sessions }: Options): SocketHandler {
  const { store, clock } = control
  return (request, socket) =>
    serveExec(request, socket, {
      clock,
      schema: ExecRequest,
      open: async ({ task: named, ...wanted }, caller) => {
        const allocation = live(findAllocation(store.view, (request.params as { allocation: string }).allocation))
        const task = named ?? firstMain(store.view, allocation)
        recordAccess(control, { by: caller.name, action: 'allocation.exec', subject: `${allocation.id}/${task}` })
        const ask = { ...wanted, allocation: allocation.id, task }
        return sessions.open(allocation.node, 'exec', ask, { signal: request.signal })
      },
    })
}

const StatsAnswer = z.object({ tasks: z.record(z.string().max(63), TaskStats) })

function* asked(
  view: View,
  query: { job?: string | undefined; node?: string | undefined; live?: boolean | undefined; id?: string | undefined },
): Iterable<Allocation> {
  const node = query.node === undefined ? undefined : findNode(view, query.node).id
  const source =
    query.job !== undefined
      ? view.by('allocationsByJob', query.job)
      : node !== undefined
        ? view.by('allocationsByNode', node)
        : view.all('allocations')
  for (const row of source) {
    if (node !== undefined && row.node !== node) continue
    if (query.live !== undefined && isLive(row) !== query.live) continue
    if (query.id !== undefined && !row.id.startsWith(query.id)) continue
    yield row
  }
}

function live(allocation: Allocation): Allocation {
  if (isLive(allocation)) return allocation
  throw new Fault(
    'conflict',
    `allocation ${allocation.id} is ${allocation.phase}; there is nothing of it to reach any more`,
  )
}

function firstMain(view: View, allocation: Allocation): string {
  const spec = view.get('jobVersions', versionKey(allocation.job, allocation.version))?.spec
  const main = Object.entries(spec?.tasks ?? {}).find(([, task]) => task.role === 'main')
  if (main) return main[0]
  throw new Fault(
    'not_found',
    `allocation ${allocation.id} runs a version of its job that is not kept any more; name the task`,
  )
}

/** Nothing more is said on it; what comes back is still read. */
function endHalf(stream: Duplex): Duplex {
  stream.end()
  return stream
}

async function drain(stream: Duplex): Promise<void> {
  stream.end()
  for await (const _ of stream);
}
