import { execFile } from 'node:child_process'
import { accessSync, closeSync, constants, existsSync, openSync, readSync, type Stats, statSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { isAbsolute, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { Fault } from '../../model/fault.ts'

/**
 * What exactly is run: every mistake that can be seen before a process exists is found here and becomes a sentence.
 */
export interface ProgramRequest {
  /** For sentences, such as `task "web"`. */
  whose: string
  command: readonly string[]
  env: Readonly<Record<string, string>>
  /** Relative paths, those in PATH as well, start at the task directory. */
  directory: string
  cwd: string | undefined
  user: string | undefined
}

export interface Program {
  /** Complete and absolute: to be exec'ed as it is. */
  argv: string[]
  cwd: string
  /** Without what `argv` sets itself. */
  env: Record<string, string>
  /** Whoever it runs as, where that is somebody else than the agent. */
  owner: { uid: number; gid: number } | undefined
}

export async function resolveProgram(request: ProgramRequest): Promise<Program> {
  const { command, directory, whose } = request
  const [name = '', ...args] = command
  if (name === '') throw new Fault('invalid', `${whose} has no program to run; give it a "command"`)
  const path = findProgram(name, request)
  const cwd = resolve(directory, request.cwd ?? '.')
  if (!isDirectory(cwd)) {
    throw new Fault('invalid', `the working directory "${cwd}" of ${whose} is not there, or not a directory`)
  }
  const user = request.user === undefined ? undefined : await userSwitch(request.user, whose)
  const { plain, special } = splitEnv(request.env)
  const last = special.length > 0 ? ['/usr/bin/env', ...special] : []
  return { argv: [...(user?.words ?? []), ...last, path, ...args], cwd, env: plain, owner: user?.account }
}

/** Without taking turns: a look costs the kernel microseconds, and waiting for one costs more than all of them. */
function findProgram(name: string, { whose, directory, env }: ProgramRequest): string {
  const path = env['PATH'] ?? '/usr/bin:/bin'
  const candidates = name.includes('/')
    ? [isAbsolute(name) ? name : join(directory, name)]
    : path.split(':').map((part) => resolve(directory, part, name))
  let found: string | undefined
  for (const candidate of candidates) {
    if (!look(candidate)?.isFile()) continue
    found = candidate
    if (!isExecutable(candidate)) continue
    checkInterpreter(candidate, whose)
    return candidate
  }
  if (found !== undefined) {
    throw new Fault(
      'invalid',
      `"${found}", the program of ${whose}, is not executable; chmod +x, or mode "0755" on its artifact, would help`,
    )
  }
  const where = name.includes('/') ? '' : ` in its PATH (${path})`
  throw new Fault('invalid', `the program "${name}" of ${whose} was not found${where}`)
}

/** A script whose interpreter is missing would fail as if it were missing itself. */
function checkInterpreter(path: string, whose: string): void {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch {
    return // Executable without being readable; then it is no script.
  }
  try {
    const head = Buffer.alloc(256)
    const interpreter = /^#!\s*(\/\S+)/.exec(head.toString('utf8', 0, readSync(file, head)))?.[1]
    if (interpreter !== undefined && !existsSync(interpreter)) {
      throw new Fault(
        'invalid',
        `"${path}", the program of ${whose}, is a script for "${interpreter}", which is not there`,
      )
    }
  } finally {
    closeSync(file)
  }
}

/**
 * Variables that mean something to the shells, setsid and setpriv on the way to the program: those would change them,
 * take orders from them or be changed by them, so that env(1) sets them last. None of them is a place for secrets.
 */
const specialNames =
  /^(IFS|OPTIND|OPTARG|OPTERR|PPID|LINENO|PS[0-9]|PWD|OLDPWD|SHLVL|_|UID|EUID|GROUPS|RANDOM|SECONDS|HISTCMD|DIRSTACK|FUNCNAME|ENV|BASH.*|SHELLOPTS|POSIXLY_CORRECT|GLIBC_TUNABLES|LD_.*|DYLD_.*|tutti_.*)$/

function splitEnv(env: Readonly<Record<string, string>>): { plain: Record<string, string>; special: string[] } {
  const entries = Object.entries(env)
  return {
    plain: Object.fromEntries(entries.filter(([name]) => !specialNames.test(name))),
    special: entries.filter(([name]) => specialNames.test(name)).map(([name, value]) => `${name}=${value}`),
  }
}

/** The words before a command that make it run as somebody else; undefined when that is who we are. */
async function userSwitch(user: string, whose: string): Promise<{ words: string[]; account: Account } | undefined> {
  const account = await accountOf(user)
  if (account === undefined) throw new Fault('invalid', `the user "${user}" of ${whose} does not exist on this node`)
  if (process.getuid?.() === account.uid) return undefined
  const lacking = userSwitchLacking()
  if (lacking !== undefined) throw new Fault('invalid', `${whose} cannot run as user "${user}": ${lacking}`)
  const groups = account.name === undefined ? '--clear-groups' : '--init-groups'
  return { words: [setpriv, `--reuid=${account.uid}`, `--regid=${account.gid}`, groups], account }
}

const setpriv = '/usr/bin/setpriv'

/** Why tasks cannot run as another user here; undefined when they can. */
export function userSwitchLacking(): string | undefined {
  if (process.platform !== 'linux') return 'switching users is made for Linux only'
  if (process.getuid?.() !== 0) return 'the agent does not run as root'
  return existsSync(setpriv) ? undefined : 'the program setpriv is missing; install util-linux'
}

interface Account {
  /** Undefined for a bare number that no account has. */
  name: string | undefined
  uid: number
  gid: number
}

async function accountOf(user: string): Promise<Account | undefined> {
  const lines = (await readFile('/etc/passwd', 'utf8').catch(() => '')).split('\n').map((line) => line.split(':'))
  const line = lines.find(([name, , uid]) => name === user || uid === user)
  if (line) return { name: line[0], uid: Number(line[2]), gid: Number(line[3]) }
  if (/^\d{1,9}$/.test(user)) return { name: undefined, uid: Number(user), gid: Number(user) }
  // Accounts from elsewhere, such as a directory service.
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.@-]*$/.test(user)) return undefined
  const id = async (flag: string) => Number((await promisify(execFile)('id', [flag, user])).stdout)
  return Promise.all([id('-u'), id('-g')]).then(
    ([uid, gid]) => ({ name: user, uid, gid }),
    () => undefined,
  )
}

function isDirectory(path: string): boolean {
  return look(path)?.isDirectory() ?? false
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** Undefined when it is not there, or not ours to see. */
function look(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false })
  } catch {
    return undefined
  }
}
