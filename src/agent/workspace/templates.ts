import { constants } from 'node:fs'
import { mkdir, open, readFile, realpath, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { TaskSpec } from '../../model/job.ts'
import { type Known, replaceReferences } from '../references.ts'
import { giveTo } from './owner.ts'

const maxSourceBytes = 2 ** 20

/** Writes a task's templates with their references replaced; returns what they add to the environment. */
export async function renderTemplates(
  directory: string,
  task: TaskSpec,
  known: Known,
): Promise<Record<string, string>> {
  const env: Record<string, string> = {}
  for (const template of task.templates) {
    const text = template.content ?? (await readSource(directory, template.source ?? ''))
    const filled = inTemplate(template.to, () => replaceReferences(text, known))
    await writeInside(directory, template.to, filled, Number.parseInt(template.mode, 8), task)
    if (template.env) Object.assign(env, parseEnv(filled, template.to))
  }
  return env
}

function inTemplate<T>(name: string, make: () => T): T {
  try {
    return make()
  } catch (error) {
    const fault = Fault.from(error)
    throw new Fault(fault.code, `template "${name}": ${fault.message}`, { cause: error })
  }
}

async function readSource(directory: string, source: string): Promise<string> {
  const path = await inside(directory, source)
  const { size } = await stat(path)
  if (size > maxSourceBytes) throw new Fault('invalid', `template source "${source}" is over ${maxSourceBytes} bytes`)
  return await readFile(path, 'utf8')
}

/** An artifact may have brought links that lead out; nothing is read or written through them. */
async function inside(directory: string, path: string): Promise<string> {
  const top = await realpath(directory)
  const real = await realpath(join(directory, path)).catch(() => {
    throw new Fault('not_found', `the task directory has no "${path}"; does an artifact bring it?`)
  })
  if (real !== top && !real.startsWith(`${top}/`)) {
    throw new Fault('denied', `"${path}" leads out of the task directory`)
  }
  return real
}

async function writeInside(directory: string, to: string, text: string, mode: number, task: TaskSpec): Promise<void> {
  const parent = await makeInside(directory, dirname(to), task)
  const path = join(parent, to.split('/').at(-1) ?? to)
  await rm(path, { force: true })
  const file = await open(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW, mode)
  try {
    await file.writeFile(text)
    await file.chmod(mode)
  } finally {
    await file.close()
  }
  await giveTo(path, task)
}

/** The directory inside the task directory, made part by part so that no link is followed out of it. */
export async function makeInside(
  directory: string,
  path: string,
  task: Pick<TaskSpec, 'user' | 'driver'>,
): Promise<string> {
  let at = ''
  for (const part of path.split('/').filter((part) => part !== '' && part !== '.')) {
    at = at === '' ? part : `${at}/${part}`
    const made = await mkdir(join(directory, at), { mode: 0o755 }).then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error
        return false
      },
    )
    if (made) await giveTo(join(directory, at), task)
    await inside(directory, at)
  }
  return at === '' ? directory : await inside(directory, at)
}

/** `KEY=value` lines; empty lines and those that begin with `#` are passed over, quotes around a value taken off. */
function parseEnv(text: string, name: string): Record<string, string> {
  const env: Record<string, string> = {}
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    const match = /^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]{0,254})\s*=\s*(.*)$/.exec(line)
    if (!match) throw new Fault('invalid', `template "${name}" line ${index + 1} is not of the form KEY=value`)
    const [, key = '', value = ''] = match
    env[key] = /^"(.*)"$/.exec(value)?.[1] ?? /^'(.*)'$/.exec(value)?.[1] ?? value
  }
  return env
}
