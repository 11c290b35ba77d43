import { resolve } from 'node:path'
import type { Cli, Given } from '../../cli/cli.ts'
import { Fault } from '../../model/fault.ts'
import { cleanUpMount, isMountPoint } from '../builds/mount-disk.ts'
import { isServing, readMountNote, removeMountNote } from '../builds/mount-notes.ts'

const pollMs = 50
const patienceMs = 10_000

/** `tutti build unmount`: asks the process that serves a mount to end, or cleans up behind one that is gone. */
export async function run(cli: Cli, { args }: Given): Promise<undefined> {
  const directory = resolve(args[0] ?? '')
  const note = await readMountNote(cli, directory)
  if (!note) throw new Fault('not_found', `no build is mounted at ${directory}`)
  if (await isServing(note)) {
    try {
      process.kill(note.pid, 'SIGTERM')
    } catch {
      // It has just ended.
    }
    for (let waitedMs = 0; waitedMs < patienceMs && (await isServing(note)); waitedMs += pollMs)
      await cli.clock.sleep(pollMs, { signal: cli.signal })
  }
  // What it took away itself is not there any more; the rest is what a killed one left.
  if (!(await isServing(note))) await cleanUpMount(directory, note.scratch, cli.clock)
  await removeMountNote(cli, directory)
  if (await isMountPoint(directory)) throw new Fault('conflict', `${directory} is still in use, and stays mounted`)
  return undefined
}
