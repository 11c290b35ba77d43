import { Fault } from '../../model/fault.ts'
import type { SignalStream } from '../../wire/services.ts'
import { findTask, gripOf, type Service } from './service.ts'

/** Sends a signal to one task, or to every running task of the allocation. */
export const signal: Service<SignalStream> = async ({ task: name, signal }, stream, { runner }) => {
  if (!/^SIG[A-Z0-9]{2,12}$/.test(signal))
    throw new Fault('invalid', `"${signal}" is not a signal; write it like "SIGHUP"`)
  const tasks = name === undefined ? runner.tasks.filter((task) => task.handle) : [findTask(runner, name)]
  if (tasks.length === 0) throw new Fault('conflict', `no task of allocation ${runner.id} is running`)
  for (const task of tasks) await gripOf(runner, task).signal(signal)
  stream.end()
}
