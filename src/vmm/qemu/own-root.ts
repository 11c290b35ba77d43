import { realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import type { Lodging } from '../isolation/lodging.ts'
import { libraries, ownRoot } from '../isolation/own-root.ts'
import { tryOut } from '../isolation/try-out.ts'
import type { MachineKind } from './command.ts'

export interface QemuRootOptions {
  kind: MachineKind
  lodging: Lodging
  clock: Clock
  log: Log
}

/** Firmware comes in packages of its own, to which names among QEMU's files lead. */
const firmware = ['qemu', 'seabios', 'ipxe', 'vgabios', 'qemu-efi-aarch64', 'AAVMF', 'OVMF', 'edk2']

/** A file system with this QEMU, its libraries and its firmware. */
export function qemuRoot({ kind, lodging, clock, log }: QemuRootOptions): ReturnType<typeof ownRoot> {
  const { program, accelerator } = kind
  const making = [
    ...[program, '-machine', kind.type, '-accel', accelerator, '-cpu', kind.cpu],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-S', '-monitor', 'stdio'],
  ]
  const devices = ['/dev/null', '/dev/urandom', ...(accelerator === 'kvm' ? ['/dev/kvm'] : [])]
  return ownRoot({
    shows: () => {
      const real = realpathSync(program)
      const prefix = dirname(dirname(real))
      const data = ['/usr/share', join(prefix, 'share')].flatMap((share) => firmware.map((name) => join(share, name)))
      return [...libraries, join(prefix, 'lib'), join(prefix, 'lib64'), ...data, real, ...devices]
    },
    // It makes such a machine, for which it reads all that it ever reads, and is told to end.
    tryOut: (root) => tryOut(making, { lodging: { ...lodging, root }, input: 'quit\n', clock }),
    log,
  })
}
