import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Clock } from '../../kit/clock.ts'
import type { VmmFacts } from '../vmm.ts'
import type { MachineKind } from './command.ts'

export interface QemuSettings {
  clock: Clock
  /** Whose machines it makes; those of this machine by default. */
  arch?: 'amd64' | 'arm64'
}

export interface KnownFacts {
  facts: VmmFacts
  kind: MachineKind | undefined
}

export function createFacts({ arch = process.arch === 'arm64' ? 'arm64' : 'amd64' }: QemuSettings) {
  let known: Promise<KnownFacts> | undefined
  return (): Promise<KnownFacts> => {
    known ??= find(arch)
    return known
  }
}

async function find(arch: 'amd64' | 'arm64'): Promise<KnownFacts> {
  const program = arch === 'amd64' ? 'qemu-system-x86_64' : 'qemu-system-aarch64'
  const { stdout } = await promisify(execFile)(program, ['--version'])
  const version = /version (\S+)/.exec(stdout)?.[1] ?? 'unknown'
  const kind: MachineKind = { program, type: 'pc-q35-7.2', accelerator: 'tcg', cpu: 'Nehalem' }
  return {
    kind,
    facts: {
      healthy: true,
      version,
      arch,
      accelerator: 'tcg',
      compat: 'x',
      can: { saveDevices: true, networks: ['none'], liveSnapshot: true },
    },
  }
}
