import { spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import type { Clock } from '../../../kit/clock.ts'

/**
 * Programs that outlive the agent: named by process id and by when they began, so that an id that was given to somebody
 * else is never mistaken for them.
 */
export interface Program {
  pid: number
  /** As the kernel counts. */
  began: string
}

/** Starts it in a session of its own, with its complaints in a file. */
export async function startProgram(command: readonly string[], log: string): Promise<Program> {
  const [file = '', ...args] = command
  const output = openSync(log, 'w', 0o600)
  try {
    const child = spawn(file, args, { detached: true, stdio: ['ignore', output, output] })
    await new Promise((resolve, reject) => child.once('spawn', resolve).once('error', reject))
    child.unref()
    const pid = child.pid ?? 0
    return { pid, began: (await beganAt(pid)) ?? '' }
  } finally {
    closeSync(output)
  }
}

export async function isRunning(program: Program | undefined): Promise<boolean> {
  return program !== undefined && program.began !== '' && (await beganAt(program.pid)) === program.began
}

/** Resolves when it is gone. */
export async function endProgram(program: Program | undefined, clock: Clock): Promise<void> {
  while (program !== undefined && (await isRunning(program))) {
    try {
      process.kill(program.pid, 'SIGKILL')
    } catch {
      return
    }
    await clock.sleep(2)
  }
}

/** Undefined when there is no such process, or only what is left of one. */
async function beganAt(pid: number): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' ? undefined : fields[19]
}
