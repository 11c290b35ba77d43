import { readdirSync, readFileSync } from 'node:fs'
import type { Clock } from '../kit/clock.ts'

/** A process of this machine. Its number alone names nobody for long; number and start time together do. */
export interface ProcessMark {
  pid: number
  /** Clock ticks since the machine's boot, as /proc has it. */
  start: string
}

export function markOf(pid: number): ProcessMark | undefined {
  const stat = statOf(pid)
  return stat === undefined ? undefined : { pid, start: stat.start }
}

/** Alive, and not merely waiting for its parent to ask how it ended. */
export function isAlive({ pid, start }: ProcessMark): boolean {
  const stat = statOf(pid)
  return stat !== undefined && stat.start === start && stat.state !== 'Z' && stat.state !== 'X'
}

/** Never hits another process that was given the number since. */
export function killMarked(mark: ProcessMark, signal: NodeJS.Signals = 'SIGKILL'): void {
  if (!isAlive(mark)) return
  try {
    process.kill(mark.pid, signal)
  } catch {
    // It ended between the look and the signal.
  }
}

/** Resolves when it has ended: a look every so often, and one as soon as `hint` says that it is worth it. */
export async function ended(mark: ProcessMark, { clock, everyMs = 300, hint, signal }: EndedOptions): Promise<void> {
  let hinted = hint
  while (isAlive(mark)) {
    signal?.throwIfAborted()
    const awake = new AbortController()
    const stop = signal ? AbortSignal.any([awake.signal, signal]) : awake.signal
    const slept = clock.sleep(everyMs, { signal: stop }).catch(() => {})
    const woken = hinted?.then(() => {
      hinted = undefined
    })
    await Promise.race([slept, ...(woken === undefined ? [] : [woken])])
    awake.abort()
  }
}

export interface EndedOptions {
  clock: Clock
  everyMs?: number
  hint?: Promise<void> | undefined
  signal?: AbortSignal | undefined
}

/** Processes whose arguments contain this one: how a process is found whose note was never written. */
export function findByArgument(argument: string): ProcessMark[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((name) => readProc(`${name}/cmdline`).split('\0').includes(argument))
    .flatMap((name) => markOf(Number(name)) ?? [])
}

/** The fields after the name, which may itself contain spaces: proc_pid_stat(5). */
function statOf(pid: number): { state: string; start: string } | undefined {
  const text = readProc(`${pid}/stat`)
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state, start] = [fields[0], fields[19]]
  return state === undefined || start === undefined ? undefined : { state, start }
}

function readProc(path: string): string {
  try {
    return readFileSync(`/proc/${path}`, 'utf8')
  } catch {
    return ''
  }
}
