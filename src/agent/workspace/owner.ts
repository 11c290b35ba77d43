import { chown, lchown, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { TaskSpec } from '../../model/job.ts'

/** Gives a file or directory to the user that the task runs as, where the agent may and the task names one of this system. */
export async function giveTo(path: string, task: Pick<TaskSpec, 'user' | 'driver'>): Promise<void> {
  const owner = await ownerOf(task)
  if (owner) await chown(path, owner.uid, owner.gid)
}

/** The same for all that is under a directory; links are given themselves, not what they lead to. */
export async function giveTree(path: string, task: Pick<TaskSpec, 'user' | 'driver'>): Promise<void> {
  const owner = await ownerOf(task)
  if (!owner) return
  await lchown(path, owner.uid, owner.gid)
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true }).catch(() => [])) {
    await lchown(join(entry.parentPath, entry.name), owner.uid, owner.gid)
  }
}

/** Undefined when there is nobody to give to: a container's users are its image's, and only root can give. */
export async function ownerOf({
  user,
  driver,
}: Pick<TaskSpec, 'user' | 'driver'>): Promise<{ uid: number; gid: number } | undefined> {
  if (user === undefined || driver !== 'process' || process.getuid?.() !== 0) return undefined
  const numbers = /^(\d+)(?::(\d+))?$/.exec(user)
  if (numbers) return { uid: Number(numbers[1]), gid: Number(numbers[2] ?? numbers[1]) }
  for (const line of (await readFile('/etc/passwd', 'utf8').catch(() => '')).split('\n')) {
    const [name, , uid, gid] = line.split(':')
    if (name === user) return { uid: Number(uid), gid: Number(gid) }
  }
  // Where users come from a directory service, the driver finds them; the files then stay the agent's.
  if (process.platform === 'darwin') return undefined
  throw new Fault('invalid', `this node has no user "${user}"`)
}
