import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { Fault } from '../../model/fault.ts'

export interface KernelModule {
  name: string
  /** Uncompressed, as finit_module(2) takes it. */
  data: Buffer
}

/** What a sandbox's kernel must be able to do: its disk, its channel, its network, its entropy. */
export const neededModules = [
  ...['virtio_pci', 'virtio_blk', 'virtio_console', 'virtio_net', 'virtio_rng'],
  ...['virtio_mmio', 'vmw_vsock_virtio_transport'],
]

/**
 * The wanted modules and all that they depend on, each after what it depends on. What is built into the kernel has no
 * file and is left out. Modules say themselves what they need; the table that depmod makes of it is not in packages.
 */
export async function collectModules(directory: string, wanted: readonly string[]): Promise<KernelModule[]> {
  const paths = new Map(
    (await readdir(directory, { recursive: true }))
      .filter((path) => /\.ko(\.xz|\.zst|\.gz)?$/.test(path))
      .map((path) => [nameOf(path), join(directory, path)]),
  )
  const found = new Map<string, KernelModule>()
  const visit = async (name: string): Promise<void> => {
    const path = paths.get(name)
    if (path === undefined || found.has(name)) return
    const data = await readModule(path)
    for (const other of dependenciesOf(data)) await visit(other)
    found.set(name, { name, data })
  }
  for (const name of wanted) await visit(name)
  return [...found.values()]
}

/** `kernel/drivers/char/hw_random/virtio-rng.ko.xz` → `virtio_rng`: file names and module names differ in dashes. */
function nameOf(path: string): string {
  return basename(path)
    .replace(/\.ko.*$/, '')
    .replaceAll('-', '_')
}

/** From the module's own description, a list of `key=value` strings. */
function dependenciesOf(module: Buffer): string[] {
  const at = module.indexOf('\0depends=')
  if (at < 0) return []
  const text = module.toString('latin1', at + '\0depends='.length, module.indexOf(0, at + 1))
  return text
    .split(',')
    .filter((name) => name !== '')
    .map((name) => name.replaceAll('-', '_'))
}

async function readModule(path: string): Promise<Buffer> {
  if (path.endsWith('.xz')) return unxz(path)
  const bytes = await readFile(path)
  if (path.endsWith('.zst')) return zstdDecompressSync(bytes)
  return path.endsWith('.gz') ? gunzipSync(bytes) : bytes
}

async function unxz(path: string): Promise<Buffer> {
  try {
    return (await promisify(execFile)('xz', ['-dc', path], { encoding: 'buffer', maxBuffer: 1 << 27 })).stdout
  } catch (error) {
    throw new Fault('unavailable', `the kernel module ${path} cannot be unpacked; install xz-utils`, { cause: error })
  }
}
