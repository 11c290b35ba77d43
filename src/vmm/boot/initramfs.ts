import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import { characterDevice, cpio, directory, file } from './cpio.ts'
import type { Kernel } from './kernel.ts'
import { collectModules, neededModules } from './modules.ts'

export interface InitramfsOptions {
  kernel: Kernel
  /** A static program: the guest agent, which is the machine's first process. */
  init: string
  /** Where it is kept, under a name made of what goes in. */
  directory: string
  /** Kernel modules beyond those that every sandbox needs. */
  modules?: readonly string[]
}

/**
 * The guest's first file system: `/init`, and the kernel's modules as `/modules/NN-name.ko`, to be loaded in the order of
 * their names. The init mounts the real root and needs no other program. Gives the path of the file.
 */
export async function makeInitramfs(options: InitramfsOptions): Promise<string> {
  const { kernel, init, modules = [] } = options
  const wanted = [...neededModules, ...modules]
  const program = await readFile(init)
  // The kernel package never changes under one release name and build; sizes and times would say so.
  const key = createHash('sha256')
    .update(JSON.stringify([1, kernel.path, kernel.release, (await stat(kernel.path)).mtimeMs, wanted]))
    .update(program)
    .digest('hex')
  const path = join(options.directory, `initramfs-${key.slice(0, 24)}.gz`)
  if (await stat(path).catch(() => undefined)) return path
  const found = kernel.modules === undefined ? [] : await collectModules(kernel.modules, wanted)
  const archive = cpio([
    ...['dev', 'proc', 'sys', 'root', 'modules'].map(directory),
    characterDevice('dev/console', 5, 1),
    characterDevice('dev/null', 1, 3),
    characterDevice('dev/kmsg', 1, 11),
    ...found.map(({ name, data }, at) => file(`modules/${String(at + 10)}-${name}.ko`, data)),
    file('init', program, 0o755),
  ])
  await mkdir(options.directory, { recursive: true })
  const unfinished = `${path}.${process.pid}.tmp`
  await writeFile(unfinished, await promisify(gzip)(archive))
  await rename(unfinished, path)
  return path
}
