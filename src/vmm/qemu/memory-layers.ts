import { existsSync, realpathSync } from 'node:fs'
import { join } from 'node:path'

/**
 * The library that QEMU is started with (native/memory-layers.c), as built in the checkout or shipped with the package;
 * undefined where it is not: changed memory is then copied when a machine wakes, and lazy memory fetches more.
 */
export function findMemoryLayers(): string | undefined {
  if (process.platform !== 'linux') return undefined
  const arch = process.arch === 'arm64' ? 'arm64' : 'amd64'
  const found = ['../../..', '../../../..']
    .map((up) => join(import.meta.dirname, up, 'native/dist', arch, 'memory-layers.so'))
    .find((path) => existsSync(path))
  // The loader takes blanks and colons for what separates libraries.
  return found === undefined || /[\s:]/.test(found) ? undefined : realpathSync(found)
}
