import { execFile, execFileSync, spawn } from 'node:child_process'
import { accessSync, chmodSync, constants, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'

const execute = promisify(execFile)

/**
 * An NBD export as a file, by a program of QEMU's: it waits for the export to come back when its server dies, and lives in a
 * session of its own, so that machines that have the file mapped do not notice. Needs /dev/fuse and fusermount3, no root.
 */
export interface FuseMount {
  /** The file. */
  path: string
  unmount(): Promise<void>
}

const pollMs = 5
const patienceMs = 10_000

/** The file, in its directory. */
export function mountPath(directory: string): string {
  return join(directory, 'memory')
}

export function canMountFuse(): boolean {
  try {
    accessSync('/dev/fuse', constants.R_OK | constants.W_OK)
    for (const program of ['qemu-storage-daemon', 'fusermount3'])
      execFileSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

export async function mountFuse(options: {
  /** Exists; holds the file and a note of the process. */
  directory: string
  socket: string
  size: number
  clock: Clock
}): Promise<FuseMount> {
  const { directory, socket, size, clock } = options
  const path = mountPath(directory)
  await cleanUp(directory)
  writeFileSync(path, '')
  const device = `driver=nbd,node-name=n0,server.type=unix,server.path=${socket},reconnect-delay=60`
  const shown = `type=fuse,id=e0,node-name=n0,mountpoint=${path},writable=on,growable=off`
  const child = spawn('qemu-storage-daemon', ['--blockdev', device, '--export', shown], {
    detached: true,
    stdio: 'ignore',
  })
  child.on('error', () => {})
  child.unref()
  writeFileSync(join(directory, 'pid'), String(child.pid ?? ''))
  for (let waitedMs = 0; statSync(path).size !== size; waitedMs += pollMs) {
    if (waitedMs > patienceMs || child.exitCode !== null) {
      await cleanUp(directory)
      throw new Fault('unavailable', `the memory could not be shown as a file at ${path}; does FUSE work here?`)
    }
    await clock.sleep(pollMs)
  }
  // VMMs of root's are users of their own. They are handed the file, and its server takes no writes.
  if (process.getuid?.() === 0) chmodSync(path, 0o666)
  return { path, unmount: () => cleanUp(directory) }
}

/** The mount that an earlier block server left, when its process is there. */
export function findMount(directory: string): FuseMount | undefined {
  const pid = pidOf(directory)
  if (pid === undefined) return undefined
  return { path: mountPath(directory), unmount: () => cleanUp(directory) }
}

/** Ends what serves the file, and takes the mount away also when that was killed. */
export async function cleanUp(directory: string): Promise<void> {
  const path = mountPath(directory)
  const pid = pidOf(directory)
  // Unmounted first: a machine that still has it mapped must not keep the daemon from ending.
  await execute('fusermount3', ['-u', '-z', '-q', path]).catch(() => {})
  if (pid !== undefined) process.kill(pid, 'SIGKILL') // it has nothing to lose, and would wait for an export that is gone
  rmSync(path, { force: true })
  rmSync(join(directory, 'pid'), { force: true })
}

/** Only a process that is about this directory's file: numbers of processes are given again. */
function pidOf(directory: string): number | undefined {
  try {
    const pid = Number(readFileSync(join(directory, 'pid'), 'utf8'))
    return pid > 0 && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(directory) ? pid : undefined
  } catch {
    return undefined
  }
}
