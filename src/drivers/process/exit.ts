import { watch } from 'node:fs'
import { constants } from 'node:os'
import { sentence } from '../../model/fault.ts'
import type { Exit } from '../driver.ts'
import type { AttemptFiles } from './attempt.ts'
import { type EndingTools, endProcesses, type Prey } from './ending.ts'

/**
 * How an attempt ended, once its parent is gone. The main process's end is the end of the attempt: what it left running
 * is ended too, as it would be in a container, so that a next attempt finds its ports and files free.
 */
export async function readExit(files: AttemptFiles, prey: Prey, tools: EndingTools): Promise<Exit> {
  const known = files.outcome()
  if (known) return known
  const leftovers = await endProcesses(prey, tools).then(
    () => undefined,
    (error: unknown) => sentence(error),
  )
  const exit = exitOf(files, prey, tools, leftovers)
  // From here on the group is not needed, and an ended task may be kept for long: give it back.
  if (files.noteOutcome(exit) && prey.group !== '' && leftovers === undefined) tools.cgroups.remove(prey.group)
  return exit
}

function exitOf(files: AttemptFiles, prey: Prey, tools: EndingTools, leftovers: string | undefined): Exit {
  const code = files.exitCode()
  if (code === undefined) return lost(leftovers ?? 'the process that waits for its exit code was ended')
  const outOfMemory = code !== 0 && prey.group !== '' && tools.cgroups.outOfMemoryKills(prey.group) > 0
  return { code, signal: signalOf(code), ...(outOfMemory ? { outOfMemory } : {}) }
}

export function lost(why: string): Exit {
  return { code: 255, unknown: `the task is gone and its exit code is not known: ${why}` }
}

/** Of an exit code as shells report it. */
export function signalOf(code: number): string | undefined {
  if (code <= 128) return undefined
  return Object.entries(constants.signals).find(([, number]) => number === code - 128)?.[0]
}

/** Resolves when the attempt of an earlier agent has ended, false when `signal` was aborted first. */
export async function untilEnded(
  files: AttemptFiles,
  prey: Prey,
  tools: EndingTools,
  signal: AbortSignal,
): Promise<boolean> {
  let rung = Promise.withResolvers<void>()
  const watcher = watchQuietly(files.directory, () => rung.resolve())
  try {
    for (;;) {
      if (signal.aborted) return false
      rung = Promise.withResolvers()
      if (files.exitCode() !== undefined) return true
      const { parent } = prey
      if (!parent || !(await tools.table.isAlive(parent))) return true
      const pause = new AbortController()
      const slow = tools.clock.sleep(5000, { signal: AbortSignal.any([signal, pause.signal]) }).catch(() => {})
      await Promise.race([rung.promise, slow])
      pause.abort()
    }
  } finally {
    watcher?.close()
  }
}

/** Without: the system's watches are used up, and looking now and then has to do. */
function watchQuietly(directory: string, onChange: () => void): { close(): void } | undefined {
  try {
    const watcher = watch(directory, { persistent: false }, onChange)
    watcher.on('error', () => watcher.close())
    return watcher
  } catch {
    return undefined
  }
}
