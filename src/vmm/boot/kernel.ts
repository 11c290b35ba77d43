import { readdir, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'

/** A Linux kernel for guests, with the directory of its modules. */
export interface Kernel {
  path: string
  /** `6.1.0-53-cloud-amd64` */
  release: string
  /** Absent when it needs none, having everything built in. */
  modules: string | undefined
}

export interface FindKernelOptions {
  arch: 'amd64' | 'arm64'
  /** Named by the node's owner: the only one that counts then. */
  path?: string | undefined
  /** Directories into which kernel packages were unpacked, besides the system's own; see tools/kernel. */
  roots: readonly string[]
}

/**
 * The kernel that guests run: the named one, or the newest Debian cloud kernel of the right architecture that is unpacked
 * in one of the roots or installed. Cloud kernels have what a VM needs and little else, so they boot fastest.
 */
export async function findKernel({ arch, path, roots }: FindKernelOptions): Promise<Kernel | undefined> {
  if (path !== undefined) return (await exists(path)) ? kernelAt(path) : undefined
  const found: string[] = []
  for (const boot of [...roots.map((root) => join(root, 'boot')), '/boot']) {
    const names = await readdir(boot).catch(() => [])
    found.push(...names.filter((name) => isCloudKernel(name, arch)).map((name) => join(boot, name)))
  }
  const [newest] = found.sort((a, b) => releaseOf(b).localeCompare(releaseOf(a), 'en', { numeric: true }))
  return newest === undefined ? undefined : kernelAt(newest)
}

/** How to get one, for people. */
export function kernelRemedy(arch: 'amd64' | 'arm64'): string {
  return `install linux-image-cloud-${arch}, run tools/kernel, or name a kernel in TUTTI_KERNEL`
}

async function kernelAt(path: string): Promise<Kernel> {
  const release = releaseOf(path)
  const root = dirname(dirname(path))
  const places = [join(dirname(path), 'modules'), join(root, 'lib/modules', release), join('/lib/modules', release)]
  for (const modules of places) if (await exists(modules)) return { path, release, modules }
  return { path, release, modules: undefined }
}

function isCloudKernel(name: string, arch: string): boolean {
  return name.startsWith('vmlinuz-') && name.endsWith(`-cloud-${arch}`)
}

function releaseOf(path: string): string {
  return path.replace(/^.*\/(vmlinu[xz]-?)?/, '')
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}
