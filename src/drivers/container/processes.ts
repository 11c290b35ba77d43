import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import type { Exit } from '../driver.ts'

/** Processes by more than their number, which the kernel gives to others once they are gone. */

/** Fields of /proc/<pid>/stat that name one process for as long as the machine is up. */
export interface ProcessMark {
  pid: number
  /** Clock ticks from boot to its start. */
  startTicks: string
}

/** Reads the line that the kernel, or a process about itself, wrote; undefined when it is not whole. */
export function parseStat(line: string): ProcessMark | undefined {
  const pid = Number.parseInt(line, 10)
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ')
  const startTicks = fields[19]
  return pid > 0 && startTicks !== undefined && /^\d+$/.test(startTicks) ? { pid, startTicks } : undefined
}

/** Alive, and not merely waiting for its parent to ask how it ended. */
export function isAlive({ pid, startTicks }: ProcessMark): boolean {
  const line = readProc(`${pid}/stat`)
  const state = line.slice(line.lastIndexOf(')') + 2, line.lastIndexOf(')') + 3)
  return parseStat(line)?.startTicks === startTicks && state !== 'Z' && state !== 'X'
}

/** The cgroup names the container, so membership tells its processes from any others. */
export function isInCgroup(pid: number, cgroup: string): boolean {
  const paths = readProc(`${pid}/cgroup`).split('\n')
  const state = readProc(`${pid}/stat`)
  const dead = /^ [ZX]/.test(state.slice(state.lastIndexOf(')') + 1))
  return !dead && paths.some((path) => path.endsWith(`:${cgroup}`) || path.includes(`:${cgroup}/`))
}

/** Whether a process is of the container with this id, whichever way its engine names cgroups. */
export function processHas(pid: number, containerId: string): boolean {
  return readProc(`${pid}/cgroup`).includes(containerId)
}

/** 128 + n stands for death by signal n. */
export function exitOf(code: number, outOfMemory: boolean): Exit {
  const signal = code > 128 ? signalNames.get(code - 128) : undefined
  return { code, ...(signal === undefined ? {} : { signal }), ...(outOfMemory && code !== 0 ? { outOfMemory } : {}) }
}

const signalNames = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]))

/** Tells whether it was there to get it. */
export function sendSignal(pid: number, signal: NodeJS.Signals | number): boolean {
  try {
    process.kill(pid, signal)
    return true
  } catch {
    return false
  }
}

function readProc(path: string): string {
  try {
    return readFileSync(`/proc/${path}`, 'utf8')
  } catch {
    return ''
  }
}
