import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, constants, fchownSync, openSync } from 'node:fs'
import type { Readable } from 'node:stream'
import type { TaskPlan } from '../driver.ts'
import type { Program } from './program.ts'

/**
 * The tiny parent of every attempt: a shell that starts the program, waits for it and writes down how it ended, so that
 * the agent may die and come back. It leads a session of its own and survives signals. All that varies reaches it as
 * arguments and environment; no text is ever pasted into these scripts.
 *
 * It writes files into the directory of the attempt, each in one go with a line end last, so that half a file is known
 * as such: `parent` and `task`, who they are; `exit`, the code. None may exist before: of two parents for one attempt
 * the second does nothing.
 *
 * A shell cannot tell a death by signal n from an exit with 128 + n, and so neither can we.
 */
export interface ParentKind {
  shell: string
  /** Before the arguments that every kind gets. */
  args: readonly string[]
  /** Words before a program that give it a session of its own; where there is no such tool the shell does it. */
  session: readonly string[]
}

/** Arguments of `enter`: doors of cgroups, `--`, the program and its arguments. Writes its complaints to stderr. */
export const enter = `
while [ "$1" != -- ]; do
  echo 0 > "$1" || { echo "cannot enter $1" >&2; exit 126; }
  shift
done
shift
unset tutti_line PWD OLDPWD SHLVL
exec "$@"
`

/**
 * Arguments: directory of the attempt, then those of `enter`. fd 3 is the agent's ear, 4 and 5 are the task's output.
 * The task says who it is as soon as it has a number: entering a cgroup can take the kernel 10 ms. It must not die of
 * a pipe without a listener, and the program must find every signal as it is by default: traps that do something are
 * forgotten by exec, ignored signals are not.
 */
const waitByProc = `
set -C
IFS= read -r tutti_line < /proc/self/stat
printf '%s\\n' "$tutti_line" > "$1/parent" || exit 0
trap : HUP INT QUIT TERM USR1 USR2 PIPE ALRM
(
  trap : PIPE
  IFS= read -r tutti_line < /proc/self/stat
  printf '%s\\n' "$tutti_line" > "$1/task"
  printf '%s\\n' "$tutti_line" >&3
  exec 3>&- >&4 2>&5 4>&- 5>&-
  set +C
  shift
  ${enter}
)
printf '%s\\n' "$?" > "$1/exit"
`

export const linuxParent: ParentKind = {
  shell: '/bin/sh',
  args: ['-c', waitByProc, 'tutti-parent'],
  session: ['/usr/bin/setsid'],
}

/**
 * Where there is neither /proc nor setsid: ps says who is who, and job control gives the task a group of its own.
 * First argument: what the inner shell runs, whose number the task keeps.
 */
const waitByJobControl = `
set -C
tutti_inner=$1
shift
LC_ALL=C TZ=UTC0 /bin/ps -o pid= -o lstart= -p "$$" > "$1/parent" || exit 0
trap '' HUP INT QUIT TERM USR1 USR2 PIPE ALRM
set -m
(
  trap - HUP INT QUIT TERM USR1 USR2 PIPE ALRM
  exec "$BASH" -c "$tutti_inner" tutti-task "$@"
) &
wait "$!"
printf '%s\\n' "$?" > "$1/exit"
`

const inner = `
trap : PIPE
tutti_line=$(LC_ALL=C TZ=UTC0 /bin/ps -o pid= -o lstart= -p "$$")
printf '%s\\n' "$tutti_line" > "$1/task"
printf '%s\\n' "$tutti_line" >&3
exec 3>&- >&4 2>&5 4>&- 5>&-
shift
${enter}
`

export const portableParent: ParentKind = {
  shell: '/bin/bash',
  args: ['-c', waitByJobControl, 'tutti-parent', inner],
  session: [],
}

export interface ParentOptions {
  kind: ParentKind
  /** Of the attempt. */
  directory: string
  doors: readonly string[]
  program: Program
  output: TaskPlan['output']
}

export interface Parent {
  child: ChildProcess
  /** What the task said of itself, line end included; empty when the parent ended without starting it. */
  line: string
}

/** Resolves when the task has a process, or the parent has ended without. */
export async function spawnParent({ kind, directory, doors, program, output }: ParentOptions): Promise<Parent> {
  const files: number[] = []
  try {
    for (const path of [output.stdout, output.stderr]) {
      const file = openSync(path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT, 0o640)
      files.push(file)
      // So that it may open /dev/stdout again.
      if (program.owner) fchownSync(file, program.owner.uid, program.owner.gid)
    }
    const args = [...kind.args, directory, ...doors, '--', ...kind.session, ...program.argv]
    const child = spawn(kind.shell, args, {
      cwd: program.cwd,
      env: program.env,
      detached: true,
      stdio: ['ignore', 'ignore', 'ignore', 'pipe', ...files],
    })
    const ear = child.stdio[3] as Readable
    const failed = new Promise<never>((_, reject) => child.once('error', reject))
    const line = await Promise.race([firstLine(ear), failed])
    ear.destroy()
    return { child, line }
  } finally {
    for (const file of files) closeSync(file)
  }
}

function firstLine(ear: Readable): Promise<string> {
  return new Promise((resolve) => {
    let said = ''
    ear.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk
      if (said.includes('\n')) resolve(said.slice(0, said.indexOf('\n') + 1))
    })
    ear.on('close', () => resolve(''))
    ear.on('error', () => resolve(''))
  })
}
