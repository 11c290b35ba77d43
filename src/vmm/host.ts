import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { access, readFile } from 'node:fs/promises'

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

export function mayRun(path: string): Promise<boolean> {
  return may(path, constants.X_OK)
}

async function may(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  )
}
