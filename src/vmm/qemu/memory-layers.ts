import { readFile, writeFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { linkFile } from '../../kit/link-file.ts'
import { Fault } from '../../model/fault.ts'
import { findBuilt } from '../built.ts'
import type { MemoryImage } from '../vmm.ts'
import { filesOf } from './command.ts'
import type { QemuProcess } from './process.ts'

/**
 * The library that QEMU is started with (native/memory-layers.c); undefined where it was not built: changed memory is then
 * copied when a machine wakes, and lazy memory fetches more.
 */
export function findMemoryLayers(): string | undefined {
  const found = findBuilt('memory-layers.so')
  // The loader takes blanks and colons for what separates libraries.
  return found === undefined || /[\s:]/.test(found) ? undefined : found
}

/** Puts in place what the preloaded library looks for when QEMU makes its memory. */
export async function placeLayers(directory: string, { isLazy = false, over }: MemoryImage): Promise<void> {
  const files = filesOf(directory)
  if (isLazy) await writeFile(files.lazy, '')
  if (over === undefined) return
  linkFile(over, files.over)
  linkFile(`${over}.runs`, files.overRuns)
}

/** A QEMU that was linked to take no library would start on memory without what its machine had changed. */
export async function checkLayers({ mark }: QemuProcess, library: string | undefined): Promise<void> {
  const maps = library === undefined ? '' : await readFile(`/proc/${mark.pid}/maps`, 'utf8')
  if (library !== undefined && maps.includes(`/${basename(library)}\n`)) return
  throw new Fault(
    'unavailable',
    `QEMU does not take the library ${library ?? ''} that lays its memory; remove the library, and memory is copied instead`,
  )
}
