import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Clock, deadline } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { findKernel, kernelRemedy } from '../boot/kernel.ts'
import { unpackKernel } from '../boot/vmlinux.ts'
import { hostCpu, mayWrite } from '../host.ts'
import { noAbilities, type VmmFacts } from '../vmm.ts'
import { filesOf, startProcess } from './process.ts'

export interface FirecrackerSettings {
  clock: Clock
  log: Log
  /** `firecracker` by default, looked for in PATH. */
  program?: string
  /** The kernel for guests, where the node's owner names one. */
  kernel?: string | undefined
  /** Where else to look for one; see src/vmm/boot/kernel.ts. */
  kernelRoots?: readonly string[]
}

const arch = process.arch === 'arm64' ? 'arm64' : 'amd64'
const execute = promisify(execFile)

/** Found out once, and again as long as the answer is no. */
export function createFacts(settings: FirecrackerSettings): () => Promise<VmmFacts> {
  let known: Promise<VmmFacts> | undefined
  return () => {
    known ??= find(settings).then((facts) => {
      if (!facts.healthy) known = undefined
      return facts
    })
    return known
  }
}

async function find(settings: FirecrackerSettings): Promise<VmmFacts> {
  const { program = 'firecracker', kernel: path, kernelRoots = [], log } = settings
  const said = await execute(program, ['--version']).catch(() => undefined)
  const version = /Firecracker v(\S+)/.exec(said?.stdout ?? '')?.[1]
  if (version === undefined)
    return unhealthy(`${program} is not installed`, 'put a release of Firecracker into PATH, or use QEMU')
  if (!(await execute('qemu-storage-daemon', ['--version']).catch(() => undefined)))
    return unhealthy(
      'qemu-storage-daemon is not installed, which gives Firecracker its disks',
      'install qemu-system-common',
    )
  if (!(await mayWrite('/dev/fuse')))
    return unhealthy('/dev/fuse cannot be opened, through which Firecracker gets its disks', 'run the agent as root')
  const kernel = await findKernel({ arch, path, roots: kernelRoots })
  if (kernel === undefined) return unhealthy(`no Linux kernel for ${arch} guests was found`, kernelRemedy(arch))
  const failure = await boots(settings, program, kernel.path).then(
    () => undefined,
    (error: unknown) => error,
  )
  if (failure !== undefined) {
    log.info({ error: failure }, 'Firecracker boots no machine here')
    return unhealthy('Firecracker boots no machine here, since KVM does not work', 'use a host with KVM, or QEMU')
  }
  return {
    ...{ healthy: true, version, arch, accelerator: 'kvm' },
    // A guest sees the host's own processor, so a snapshot goes where there is the same.
    compat: `firecracker ${version.split('.').slice(0, 2).join('.')} kvm ${await hostCpu()}`,
    can: {
      saveDevices: false,
      savesMemory: false,
      networks: (await mayWrite('/dev/net/tun')) ? ['none', 'tap'] : ['none'],
      networkLater: false,
      liveSnapshot: true,
      layeredMemory: false,
    },
  }
}

/** As for QEMU: a kernel with nothing to run, until it says so. */
async function boots({ clock }: FirecrackerSettings, program: string, kernel: string): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-fc-'))
  using limit = deadline(clock, 10_000)
  const { signal } = limit
  try {
    const machine = { arch, cpus: 1, memoryMiB: 128 } as const
    const note = { disk: null, machine, memory: null }
    const process = await startProcess({ program, wrapper: [], directory, note, clock, signal })
    try {
      const { api } = process
      await api.put('/machine-config', { vcpu_count: 1, mem_size_mib: machine.memoryMiB }, { signal })
      const boot_args = 'console=ttyS0 panic=-1 reboot=k quiet'
      const kernel_image_path = await unpackKernel(kernel, directory)
      await api.put('/boot-source', { kernel_image_path, boot_args }, { signal })
      await api.put('/actions', { action_type: 'InstanceStart' }, { signal })
      const { console } = filesOf(directory)
      while (!(await readFile(console, 'latin1')).includes('Unable to mount root fs')) await clock.sleep(20, { signal })
    } finally {
      await process.kill()
      process.letGo()
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

function unhealthy(reason: string, remedy: string): VmmFacts {
  return { healthy: false, reason, remedy, version: '', arch, accelerator: 'kvm', compat: '', can: noAbilities }
}
