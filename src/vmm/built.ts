import { existsSync, realpathSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Something of native/ for this machine, as built in the checkout or shipped with the package; undefined where it is not,
 * and on systems that it is not for.
 */
export function findBuilt(name: string): string | undefined {
  if (process.platform !== 'linux') return undefined
  const arch = process.arch === 'arm64' ? 'arm64' : 'amd64'
  const found = ['../..', '../../..']
    .map((up) => join(import.meta.dirname, up, 'native/dist', arch, name))
    .find((path) => existsSync(path))
  return found === undefined ? undefined : realpathSync(found)
}
