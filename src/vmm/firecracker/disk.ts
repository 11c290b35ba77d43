import { spawn } from 'node:child_process'
import { open, stat, writeFile } from 'node:fs/promises'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { isAlive, killMarked, markOf, type ProcessMark } from '../process-mark.ts'
import { exportArgument, filesOf } from './process.ts'

/**
 * Firecracker speaks no NBD. It takes a file, or a vhost-user socket, with which it cannot be saved. So QEMU's storage
 * daemon makes a file of the socket, through FUSE, in the machine's own directory. It outlives us, like the machine.
 */
export async function mountDisk(
  directory: string,
  socket: string,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<ProcessMark> {
  const files = filesOf(directory)
  await writeFile(files.disk, '')
  const before = await stat(files.disk)
  await using log = await open(files.log, 'a')
  const path = socket.replaceAll(',', ',,')
  const child = spawn(
    'qemu-storage-daemon',
    [
      ...[
        '--blockdev',
        `driver=nbd,node-name=disk,server.type=unix,server.path=${path},reconnect-delay=30,discard=unmap`,
      ],
      ...['--export', exportArgument(files.disk)],
    ],
    { cwd: directory, detached: true, stdio: ['ignore', log.fd, log.fd] },
  )
  const failed = new Promise<Error>((resolve) => child.once('error', resolve))
  const mark = child.pid === undefined ? undefined : markOf(child.pid)
  if (mark === undefined)
    throw new Fault('unavailable', 'qemu-storage-daemon cannot be started', { cause: await failed })
  child.unref()
  try {
    while ((await stat(files.disk)).dev === before.dev) {
      if (!isAlive(mark))
        throw new Fault('unavailable', `the disk at ${socket} cannot be made a file; see ${files.log}`)
      await clock.sleep(2, { signal })
    }
    return mark
  } catch (error) {
    killMarked(mark, 'SIGTERM')
    throw error
  }
}
