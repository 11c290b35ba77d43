import { chmod, stat } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { TaskSpec } from '../../model/job.ts'
import { ownerOf } from './owner.ts'

/**
 * The way from the root to a task directory. A task of another user reaches its files by absolute names, and so must be
 * let through every directory above them: through, which is not to list or read them.
 */

/** Lets everybody pass through a directory of the agent; only root has tasks of other users. */
export async function letPass(directory: string): Promise<void> {
  if (process.getuid?.() !== 0) return
  const { mode, uid } = await stat(directory)
  if (uid === 0 && (mode & others.pass) === 0) await chmod(directory, (mode & 0o7777) | 0o011)
  // The usual place, /var/lib/tutti/agent, has one more that is ours.
  const above = dirname(directory)
  if (basename(above) === 'tutti') await letPass(above)
}

/** A Fault naming the first directory that the task's user cannot pass through. */
export async function checkWay(directory: string, task: Pick<TaskSpec, 'user' | 'driver'>): Promise<void> {
  const user = await ownerOf(task)
  if (user === undefined || user.uid === 0) return
  for (const above of waysTo(directory)) {
    const { mode, uid, gid } = await stat(above)
    // Which other groups it is in is not known here, and access lists show as the group's bits: those get the benefit.
    const may =
      uid === user.uid ? mode & owner.pass : gid === user.gid ? mode & group.pass : mode & (group.pass | others.pass)
    if (may) continue
    throw new Fault(
      'denied',
      `user "${task.user}" cannot enter the task directory, because ${above} lets nobody through; "chmod o+x ${above}" would help, or a data directory elsewhere for the agent`,
    )
  }
}

const owner = { pass: 0o100 }
const group = { pass: 0o010 }
const others = { pass: 0o001 }

/** All directories above, the root first. */
function waysTo(directory: string): string[] {
  const above = dirname(directory)
  return above === directory ? [] : [...waysTo(above), above]
}
