import type { z } from 'zod'
import { Fault } from '../../model/fault.ts'
import type { StreamService } from '../../wire/link.ts'
import { type ServiceName, services } from '../../wire/services.ts'
import type { AllocationRunner, Parts } from '../allocation-runner.ts'
import type { Allocations } from '../allocations.ts'
import type { TaskRunner } from '../task-runner.ts'
import { exec } from './exec.ts'
import { logs } from './logs.ts'
import { signal } from './signal.ts'
import { stats } from './stats.ts'

/** What a service finds its task by. */
export interface Found {
  parts: Parts
  runner: AllocationRunner
}

/** All that this agent serves on byte streams; each request is parsed before anything is done with it. */
export function streamServices(parts: Parts, allocations: Allocations): Record<ServiceName, StreamService> {
  const serve =
    <Name extends ServiceName>(name: Name, service: Service<z.infer<(typeof services)[Name]>>): StreamService =>
    async (request, stream, { signal }) => {
      const parsed = services[name].safeParse(request)
      if (!parsed.success) {
        const [issue] = parsed.error.issues
        throw new Fault('invalid', `the request for ${name} is not valid: ${issue?.path.join('.')}: ${issue?.message}`)
      }
      const data = parsed.data as z.infer<(typeof services)[Name]>
      const runner = allocations.get(data.allocation)
      if (!runner) throw new Fault('not_found', `allocation ${data.allocation} is not on node "${parts.node.name}"`)
      await service(data, stream, { parts, runner, signal })
    }
  return {
    exec: serve('exec', exec),
    logs: serve('logs', logs),
    stats: serve('stats', stats),
    signal: serve('signal', signal),
  }
}

export type Service<Request> = (
  request: Request,
  stream: Parameters<StreamService>[1],
  found: Found & { signal: AbortSignal },
) => Promise<void>

export function findTask(runner: AllocationRunner, name: string): TaskRunner {
  const task = runner.task(name)
  if (task) return task
  const known = runner.tasks.map((task) => task.name).join(', ')
  throw new Fault('not_found', `allocation ${runner.id} has no task "${name}"; its tasks are ${known}`)
}

/** The grip on a running attempt, or a Fault saying what the task does instead. */
export function gripOf(runner: AllocationRunner, task: TaskRunner): NonNullable<TaskRunner['handle']> {
  if (task.handle) return task.handle
  const { phase, message } = task.record.status
  throw new Fault(
    'conflict',
    `task "${task.name}" of allocation ${runner.id} is not running; it is ${phase}${message ? `: ${message}` : ''}`,
  )
}
