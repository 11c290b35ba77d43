import { type Cgroups, killProcess } from '../../kit/cgroups.ts'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import type { ProcessMark, ProcessTable } from './table.ts'

/** What is needed to find every process of an attempt, and to spare its parent, which still has to write. */
export interface Prey {
  taskId: string
  /** Its cgroup; empty without. */
  group: string
  task: ProcessMark | undefined
  parent: ProcessMark | undefined
}

export interface EndingTools {
  cgroups: Cgroups
  table: ProcessTable
  clock: Clock
}

/** Ends every process of the attempt but its parent; returns when none is left. */
export async function endProcesses(prey: Prey, tools: EndingTools): Promise<void> {
  const { clock } = tools
  const start = clock.monotonic()
  for (let pause = 1; ; pause = Math.min(50, pause * 2)) {
    const living = await processesOf(prey, tools)
    if (living.length === 0) return
    if (prey.group !== '') tools.cgroups.kill(prey.group)
    for (const pid of living) killProcess(pid)
    if (clock.monotonic() - start > 20_000) {
      throw new Fault(
        'unavailable',
        `processes ${living.slice(0, 5).join(', ')} of task "${prey.taskId}" do not die; the kernel may hold them, look at their state with ps`,
      )
    }
    await clock.sleep(pause)
  }
}

async function processesOf({ taskId, group, task, parent }: Prey, { cgroups, table }: EndingTools): Promise<number[]> {
  const found = new Set(group === '' ? await table.membersOf(taskId, task?.pid) : cgroups.processes(group))
  // It has a number a moment before it is in its cgroup.
  if (task && !found.has(task.pid) && (await table.isAlive(task))) found.add(task.pid)
  if (parent) found.delete(parent.pid)
  found.delete(process.pid)
  return [...found]
}
