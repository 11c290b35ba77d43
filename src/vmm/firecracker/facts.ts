import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Clock, deadline } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { findKernel, kernelRemedy } from '../boot/kernel.ts'
import { unpackKernel } from '../boot/vmlinux.ts'
import { findProgram, hostCpu, mayWrite } from '../host.ts'
import type { Isolation } from '../isolation/isolation.ts'
import type { Lodging } from '../isolation/lodging.ts'
import { noAbilities, type VmmFacts } from '../vmm.ts'
import { createLodging } from './lodging.ts'
import { filesOf, startProcess } from './process.ts'

export interface FirecrackerSettings {
  clock: Clock
  log: Log
  /** `firecracker` by default, looked for in PATH. */
  program?: string
  /** What a program that stands for it reads beside itself. */
  shows?: readonly string[]
  /** The kernel for guests, where the node's owner names one. */
  kernel?: string | undefined
  /** Where else to look for one; see src/vmm/boot/kernel.ts. */
  kernelRoots?: readonly string[]
}

const arch = process.arch === 'arm64' ? 'arm64' : 'amd64'
const execute = promisify(execFile)

export interface KnownFacts {
  facts: VmmFacts
  /** Absent when not healthy. */
  means?: Means
}

/** What it takes to start one. */
export interface Means {
  program: string
  lodge: ReturnType<typeof createLodging>
}

/** Found out once, and again as long as the answer is no. */
export function createFacts(
  settings: FirecrackerSettings,
  isolated: () => Isolation | undefined,
): () => Promise<KnownFacts> {
  let known: Promise<KnownFacts> | undefined
  return () => {
    known ??= find(settings, isolated).then((found) => {
      if (!found.facts.healthy) known = undefined
      return found
    })
    return known
  }
}

async function find(settings: FirecrackerSettings, isolated: () => Isolation | undefined): Promise<KnownFacts> {
  const { program: name = 'firecracker', shows = [], kernel: path, kernelRoots = [], log } = settings
  const program = await findProgram(name)
  const said = program && (await execute(program, ['--version']).catch(() => undefined))
  const version = said && /Firecracker v(\S+)/.exec(said.stdout)?.[1]
  if (!program || !version)
    return unhealthy(`${name} is not installed`, 'put a release of Firecracker into PATH, or use QEMU')
  if (!(await execute('qemu-storage-daemon', ['--version']).catch(() => undefined)))
    return unhealthy(
      'qemu-storage-daemon is not installed, which gives Firecracker its disks',
      'install qemu-system-common',
    )
  if (!(await mayWrite('/dev/fuse')))
    return unhealthy('/dev/fuse cannot be opened, through which Firecracker gets its disks', 'run the agent as root')
  const kernel = await findKernel({ arch, path, roots: kernelRoots })
  if (kernel === undefined) return unhealthy(`no Linux kernel for ${arch} guests was found`, kernelRemedy(arch))
  const means = { program, lodge: createLodging({ isolated, clock: settings.clock, log, program, shows }) }
  const failure = await boots(settings, means, kernel.path).then(
    () => undefined,
    (error: unknown) => error,
  )
  if (failure !== undefined) {
    log.info({ error: failure }, 'Firecracker boots no machine here')
    return unhealthy('Firecracker boots no machine here, since KVM does not work', 'use a host with KVM, or QEMU')
  }
  const lodging = await means.lodge()
  return {
    means,
    facts: {
      ...{ healthy: true, version, arch, accelerator: 'kvm' },
      // A guest sees the host's own processor, so a snapshot goes where there is the same.
      compat: `firecracker ${version.split('.').slice(0, 2).join('.')} kvm ${await hostCpu()}`,
      can: {
        saveDevices: false,
        savesMemory: false,
        networks: (await opensTaps(lodging)) ? ['none', 'tap'] : ['none'],
        networkLater: false,
        // One that is isolated has open what it will be told to read, and nothing can be handed to it later.
        warm: lodging === undefined,
        liveSnapshot: true,
        layeredMemory: false,
      },
    },
  }
}

/** It opens its tap itself, by its own right. */
async function opensTaps(lodging: Lodging | undefined): Promise<boolean> {
  if (!(await mayWrite('/dev/net/tun'))) return false
  return lodging === undefined || lodging.root !== undefined || ((await stat('/dev/net/tun')).mode & 0o006) === 0o006
}

/** As for QEMU: a kernel with nothing to run, until it says so. */
async function boots({ clock }: FirecrackerSettings, { program, lodge }: Means, kernel: string): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-fc-'))
  using limit = deadline(clock, 10_000)
  const { signal } = limit
  try {
    const machine = { arch, cpus: 1, memoryMiB: 128 } as const
    const note = { disk: null, machine, memory: null }
    const kernel_image_path = await unpackKernel(kernel, directory)
    const files = [{ path: kernel_image_path, use: 'read' as const }]
    const lodging = await lodge()
    const process = await startProcess({ program, wrapper: [], lodging, files, directory, note, clock, signal })
    try {
      const { api } = process
      await api.put('/machine-config', { vcpu_count: 1, mem_size_mib: machine.memoryMiB }, { signal })
      const boot_args = 'console=ttyS0 panic=-1 reboot=k quiet'
      await api.put('/boot-source', { kernel_image_path: process.nameOf(kernel_image_path), boot_args }, { signal })
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

function unhealthy(reason: string, remedy: string): KnownFacts {
  return {
    facts: { healthy: false, reason, remedy, version: '', arch, accelerator: 'kvm', compat: '', can: noAbilities },
  }
}
