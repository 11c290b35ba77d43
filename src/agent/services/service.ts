import { Fault } from '../../model/fault.ts'
import type { StreamService } from '../../wire/link.ts'
import type { AllocationRunner, Parts } from '../allocation-runner.ts'
import type { TaskRunner } from '../task-runner.ts'

/** What one service is, and how each of them finds its task. */
export type Service<Request> = (
  request: Request,
  stream: Parameters<StreamService>[1],
  found: { parts: Parts; runner: AllocationRunner; signal: AbortSignal },
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
