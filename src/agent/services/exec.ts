import { Fault } from '../../model/fault.ts'
import type { ExecStream } from '../../wire/services.ts'
import { carryExecution } from './carry.ts'
import { findTask, gripOf, type Service } from './service.ts'

/** Runs a command inside a running task, its input and output as frames on the stream. */
export const exec: Service<ExecStream> = async (request, stream, { runner, signal }) => {
  const task = findTask(runner, request.task)
  const handle = gripOf(runner, task)
  const { can } = task.driver
  if (!can.exec) throw new Fault('conflict', `the driver "${task.driver.name}" of task "${task.name}" has no way in`)
  if (request.terminal && !can.terminal) {
    throw new Fault(
      'conflict',
      `the driver "${task.driver.name}" of task "${task.name}" cannot give a terminal; leave it out`,
    )
  }
  const { command, env, cwd, user, terminal } = request
  await carryExecution(stream, (options) => handle.guest.exec({ command, env, cwd, user, terminal }, options), {
    signal,
  })
}
