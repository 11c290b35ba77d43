import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'

/**
 * The processes of this machine. A process number alone names nobody for long, since the kernel gives it to others;
 * number and start time together do. Two ways to ask: /proc, and ps where there is none.
 */
export interface ProcessTable {
  /** Reads what a parent wrote down about a process; undefined when it is not whole. */
  parse(line: string): ProcessMark | undefined
  /** Alive, and not merely waiting for its parent to ask how it ended. */
  isAlive(mark: ProcessMark): Promise<boolean>
  /** Living processes of a task: those that carry its id in their environment, and the session and group of `leader`. */
  membersOf(taskId: string, leader: number | undefined): Promise<number[]>
  usageOf(pids: readonly number[]): Promise<{ memory: number; cpuMs: number }>
}

export interface ProcessMark {
  pid: number
  start: string
}

/** The variable that every process of a task inherits. */
export const taskIdVariable = 'TUTTI_TASK_ID'

/** Of /proc/<pid>/stat: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html; the fields after the name. */
const field = { state: 0, group: 2, session: 3, userTicks: 11, systemTicks: 12, start: 19, pages: 21 }
const ticksPerSecond = 100
const pageSize = 4096

export const procTable: ProcessTable = {
  parse: (line) => {
    const pid = Number.parseInt(line, 10)
    const start = fieldsOf(line)[field.start]
    return line.endsWith('\n') && pid > 0 && start !== undefined && /^\d+$/.test(start) ? { pid, start } : undefined
  },
  isAlive: async ({ pid, start }) => {
    const fields = fieldsOf(readProc(`${pid}/stat`))
    return fields[field.start] === start && !isDead(fields)
  },
  membersOf: async (taskId, leader) => {
    const mark = `${taskIdVariable}=${taskId}`
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number)
      .filter((pid) => {
        const fields = fieldsOf(readProc(`${pid}/stat`))
        if (fields.length === 0 || isDead(fields)) return false
        const led = leader !== undefined && [fields[field.group], fields[field.session]].includes(String(leader))
        return led || `\0${readProc(`${pid}/environ`)}`.includes(`\0${mark}\0`)
      })
  },
  usageOf: async (pids) => {
    const usage = { memory: 0, cpuMs: 0 }
    for (const pid of pids) {
      const fields = fieldsOf(readProc(`${pid}/stat`))
      usage.memory += Number(fields[field.pages] ?? 0) * pageSize
      const ticks = Number(fields[field.userTicks] ?? 0) + Number(fields[field.systemTicks] ?? 0)
      usage.cpuMs += (ticks * 1000) / ticksPerSecond
    }
    return usage
  },
}

function fieldsOf(stat: string): string[] {
  return stat === ''
    ? []
    : stat
        .slice(stat.lastIndexOf(')') + 2)
        .trimEnd()
        .split(' ')
}

function isDead(fields: readonly string[]): boolean {
  return fields[field.state] === 'Z' || fields[field.state] === 'X'
}

function readProc(path: string): string {
  try {
    return readFileSync(`/proc/${path}`, 'utf8')
  } catch {
    return ''
  }
}

/** By ps(1), whose start time has seconds: enough, since numbers are not used again that fast. */
export const psTable: ProcessTable = {
  parse: (line) => {
    const match = /^\s*(\d+)\s+(\S.*\S)\s*\n$/.exec(line)
    return match?.[1] && match[2] ? { pid: Number(match[1]), start: match[2].replaceAll(/\s+/g, ' ') } : undefined
  },
  isAlive: async ({ pid, start }) => {
    const [state, ...words] = (await ps(['-o', 'stat=', '-o', 'lstart=', '-p', String(pid)])).trim().split(/\s+/)
    return state !== undefined && !state.startsWith('Z') && words.join(' ') === start
  },
  membersOf: async (taskId, leader) => {
    const mark = `${taskIdVariable}=${taskId}`
    const marked = rowsOf(
      await ps(process.platform === 'darwin' ? ['-axwwE', '-o', 'pid=,command='] : ['axwwe', '-o', 'pid=,command=']),
    )
      .filter(([, ...words]) => words.includes(mark))
      .map(([pid]) => Number(pid))
    const all = rowsOf(await ps(['-ax', '-o', 'pid=,pgid=,stat=']))
    const living = new Set(all.filter(([, , state]) => !state?.startsWith('Z')).map(([pid]) => Number(pid)))
    const led = all.filter(([, group]) => group === String(leader)).map(([pid]) => Number(pid))
    return [...new Set([...marked, ...led])].filter((pid) => living.has(pid))
  },
  usageOf: async (pids) => {
    const usage = { memory: 0, cpuMs: 0 }
    if (pids.length === 0) return usage
    for (const [kilobytes, time] of rowsOf(await ps(['-o', 'rss=,time=', '-p', pids.join(',')]))) {
      usage.memory += Number(kilobytes ?? 0) * 1024
      usage.cpuMs += timeMs(time ?? '0')
    }
    return usage
  },
}

function rowsOf(listing: string): string[][] {
  return listing
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => line.trim().split(/\s+/))
}

/** `1-02:03:04` or `2:03.45` → ms. */
export function timeMs(time: string): number {
  const [clock = '0', days = '0'] = time.split('-').reverse()
  const seconds = clock.split(':').reduce((sum, part) => sum * 60 + Number(part), 0)
  return Math.round((Number(days) * 86_400 + seconds) * 1000)
}

/** An empty listing when it finds nobody, which ps calls a failure. */
function ps(args: string[]): Promise<string> {
  return new Promise((resolve) => {
    const env = { LC_ALL: 'C', TZ: 'UTC0', PATH: '/bin:/usr/bin' }
    execFile('ps', args, { env, maxBuffer: 1 << 28 }, (_, stdout) => resolve(stdout))
  })
}
