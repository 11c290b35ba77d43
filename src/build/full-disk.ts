import { statfs } from 'node:fs/promises'
import { Fault } from '../model/fault.ts'
import { formatSize } from '../model/units.ts'

/** With less than this a guest's writes begin to fail, and so may anything else. */
const scarceBytes = 64 * 2 ** 20

/**
 * A guest only says that its disk has failed. Where the node has no room left for what guests write, that is why, and is
 * said: asked at once, since what the machine took is free again when it is gone.
 */
export async function explainingFullDisk<T>(
  directory: string,
  { signal }: { signal: AbortSignal },
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work()
  } catch (error) {
    signal.throwIfAborted()
    const { bavail, bsize } = await statfs(directory)
    const fault = Fault.from(error)
    // Whoever wrote to it for the guest has said so.
    if (fault.code === 'exhausted' && fault.message.includes('the disk is full')) throw error
    if (fault.code === 'internal' || bavail * bsize >= scarceBytes) throw error
    throw new Fault(
      'exhausted',
      `${fault.message}; the disk of the node is full (${formatSize(bavail * bsize)} left), so free some of it, or build elsewhere`,
      { cause: error },
    )
  }
}
