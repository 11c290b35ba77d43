import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { access, readFile } from 'node:fs/promises'
import { delimiter, join, resolve } from 'node:path'

/** Short, and the same for processors that can do the same: for guests that see the host's own. */
export async function hostCpu(): Promise<string> {
  const text = await readFile('/proc/cpuinfo', 'utf8').catch(() => '')
  const telling = /^(model name|flags|Features|CPU (implementer|part))\s*:/
  const lines = new Set(text.split('\n').filter((line) => telling.test(line)))
  return createHash('sha256')
    .update([...lines].join('\n'))
    .digest('hex')
    .slice(0, 12)
}

export function mayWrite(path: string): Promise<boolean> {
  return may(path, constants.R_OK | constants.W_OK)
}

function mayRun(path: string): Promise<boolean> {
  return may(path, constants.X_OK)
}

/** The file that a program's name stands for; undefined where it is not installed. */
export async function findProgram(name: string): Promise<string | undefined> {
  if (name.includes('/')) return (await mayRun(name)) ? resolve(name) : undefined
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(directory, name)
    if (await mayRun(path)) return path
  }
  return undefined
}

async function may(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  )
}
