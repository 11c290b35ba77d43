import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { release } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { findKernel, kernelRemedy } from '../boot/kernel.ts'
import { findProgram, hostCpu, mayWrite } from '../host.ts'
import { noAbilities, type VmmFacts } from '../vmm.ts'
import { askQemu, type QemuAnswers } from './ask.ts'
import type { MachineKind } from './command.ts'
import { boots } from './probe.ts'

export interface QemuSettings {
  clock: Clock
  log: Log
  /** Whose machines it makes; those of this machine by default. */
  arch?: 'amd64' | 'arm64'
  /** Where what was found out is kept, so that it is found out once. */
  directory?: string
  /** The kernel for guests, where the node's owner names one. */
  kernel?: string | undefined
  /** Where else to look for one; see src/vmm/boot/kernel.ts. */
  kernelRoots?: readonly string[]
  /** The library that lays a machine's memory, where it was built; see native/memory-layers.c. */
  layers?: string | undefined
  /** Never KVM, even where it works. */
  emulate?: boolean
  /** `whole`: a clone's device state is saved with its memory, even where QEMU can leave that out. */
  saving?: 'devices' | 'whole'
}

export interface KnownFacts {
  facts: VmmFacts
  /** Absent when not healthy. */
  kind: MachineKind | undefined
}

/** Asks, tries, and keeps the answer until QEMU, the kernel of guests or that of the host is another. */
export function createFacts(settings: QemuSettings): () => Promise<KnownFacts> {
  let known: Promise<KnownFacts> | undefined
  return () => {
    known ??= find(settings).then((found) => {
      // What can be mended while we run is looked at again.
      if (!found.facts.healthy) known = undefined
      return found
    })
    return known
  }
}

type Arch = VmmFacts['arch']

const programs = { amd64: 'qemu-system-x86_64', arm64: 'qemu-system-aarch64' }
const families = { amd64: /^pc-q35-(\d+)\.(\d+)$/, arm64: /^virt-(\d+)\.(\d+)$/ }
/**
 * With KVM the best that the host can do in full; by name, so that two hosts agree on what it means. Emulated: as much as
 * distributions ask for (x86-64-v2), with AES, which emulation carries out faster than the program that would stand for it.
 */
const cpusByHardware = [
  ...[
    'Icelake-Server-noTSX',
    'Cascadelake-Server-noTSX',
    'Skylake-Server-noTSX-IBRS',
    'Broadwell-noTSX',
    'Haswell-noTSX',
  ],
  ...['EPYC-Milan', 'EPYC-Rome', 'EPYC', 'Westmere', 'Nehalem'],
]
const emulatedCpus = { amd64: 'Westmere', arm64: 'cortex-a72' }

async function find(settings: QemuSettings): Promise<KnownFacts> {
  const { arch = process.arch === 'arm64' ? 'arm64' : 'amd64', kernelRoots = [] } = settings
  const program = await findProgram(programs[arch])
  const packageName = arch === 'amd64' ? 'qemu-system-x86' : 'qemu-system-arm'
  if (program === undefined) return unhealthy(arch, `${programs[arch]} is not installed`, `install ${packageName}`)
  const kernel = await findKernel({ arch, path: settings.kernel, roots: kernelRoots })
  if (kernel === undefined)
    return unhealthy(
      arch,
      settings.kernel === undefined
        ? `no Linux kernel for ${arch} guests was found`
        : `there is no kernel at ${settings.kernel}`,
      kernelRemedy(arch),
    )
  const key = JSON.stringify([
    ...[program, (await stat(program)).mtimeMs, kernel.path, (await stat(kernel.path)).mtimeMs, release()],
    settings.emulate ?? false,
  ])
  const kept = await readKept(settings.directory, arch, key)
  const found = kept ?? (await tryOut(settings, arch, program, kernel.path))
  if (found === undefined)
    return unhealthy(arch, `QEMU cannot boot the kernel ${kernel.path}`, 'install another kernel or a newer QEMU')
  if (!kept) await keep(settings.directory, arch, { key, found })
  const { answers, kind } = found
  const saveDevices = answers.commands.includes('xen-save-devices-state') && settings.saving !== 'whole'
  return {
    kind,
    facts: {
      ...{ healthy: true, version: answers.version, arch, accelerator: kind.accelerator },
      compat: await compatOf(kind, answers.version),
      can: {
        saveDevices,
        savesMemory: !saveDevices,
        networks: await networksOf(answers),
        networkLater: false,
        warm: true,
        liveSnapshot: true,
        layeredMemory: settings.layers !== undefined,
      },
    },
  }
}

/** A patch of the same release loads what another saved; nothing else is promised between releases. */
async function compatOf({ type, accelerator, cpu }: MachineKind, version: string): Promise<string> {
  const model = cpu === 'host' ? `host-${await hostCpu()}` : cpu
  return ['qemu', version.split('.').slice(0, 2).join('.'), type, accelerator, model].join(' ')
}

async function networksOf({ netdevs }: QemuAnswers): Promise<VmmFacts['can']['networks']> {
  const tap = netdevs.includes('tap') && (await mayWrite('/dev/net/tun')) && process.getuid?.() === 0
  return [
    'none',
    ...(netdevs.includes('user') ? (['user'] as const) : []),
    ...(netdevs.includes('stream') ? (['stream'] as const) : []),
    ...(tap ? (['tap'] as const) : []),
  ]
}

async function tryOut(settings: QemuSettings, arch: Arch, program: string, kernel: string): Promise<Found | undefined> {
  const { clock, log } = settings
  const ofThisMachine = arch === (process.arch === 'arm64' ? 'arm64' : 'amd64')
  const accelerators = ofThisMachine && !settings.emulate && (await mayWrite('/dev/kvm')) ? ['kvm', 'tcg'] : ['tcg']
  for (const accelerator of accelerators as MachineKind['accelerator'][]) {
    const answers = await askQemu(program, accelerator, clock).catch((error: unknown) => {
      log.info({ accelerator, error }, 'this QEMU does not start with this accelerator')
      return undefined
    })
    const type = answers && newest(answers.machines, families[arch])
    if (answers === undefined || type === undefined) continue
    const cpu = cpuOf(arch, accelerator, answers)
    const kind: MachineKind = { program, type, accelerator, cpu }
    // With hardware it takes half a second; emulated on a busy machine it may take long.
    const limitMs = accelerator === 'tcg' ? 120_000 : 10_000
    if (await boots({ kind, arch, kernel, limitMs, clock })) return { answers, kind }
    log.info({ ...kind, kernel }, 'no machine boots this way here')
  }
  return undefined
}

function cpuOf(arch: Arch, accelerator: string, { cpus }: QemuAnswers): string {
  if (accelerator === 'tcg') return emulatedCpus[arch]
  return cpusByHardware.find((cpu) => cpus.includes(cpu)) ?? 'host'
}

function newest(machines: readonly string[], family: RegExp): string | undefined {
  const known = machines.filter((name) => family.test(name))
  return known.sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))[0]
}

function unhealthy(arch: Arch, reason: string, remedy: string): KnownFacts {
  return {
    kind: undefined,
    facts: { healthy: false, reason, remedy, version: '', arch, accelerator: 'tcg', compat: '', can: noAbilities },
  }
}

const Found = z.object({
  answers: z.object({
    version: z.string(),
    machines: z.array(z.string()),
    commands: z.array(z.string()),
    cpus: z.array(z.string()),
    netdevs: z.array(z.string()),
  }),
  kind: z.object({
    program: z.string(),
    type: z.string(),
    accelerator: z.enum(['kvm', 'tcg', 'hvf']),
    cpu: z.string(),
  }),
})
type Found = z.infer<typeof Found>

async function readKept(directory: string | undefined, arch: Arch, key: string): Promise<Found | undefined> {
  if (directory === undefined) return undefined
  try {
    const kept = JSON.parse(await readFile(keptIn(directory, arch), 'utf8'))
    return kept.key === key ? Found.parse(kept.found) : undefined
  } catch {
    return undefined
  }
}

async function keep(directory: string | undefined, arch: Arch, what: object): Promise<void> {
  if (directory === undefined) return
  await mkdir(directory, { recursive: true })
  const path = keptIn(directory, arch)
  await writeFile(`${path}.tmp`, JSON.stringify(what))
  await rename(`${path}.tmp`, path)
}

function keptIn(directory: string, arch: Arch): string {
  return join(directory, `qemu-${arch}.json`)
}
