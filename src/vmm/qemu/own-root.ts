import { once } from 'node:events'
import { realpathSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type Clock, deadline } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { Inherited } from '../isolation/inherited.ts'
import { type Lodging, startLodged } from '../isolation/lodging.ts'
import { libraries, ownRoot } from '../isolation/own-root.ts'
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
  const devices = ['/dev/null', '/dev/urandom', ...(accelerator === 'kvm' ? ['/dev/kvm'] : [])]
  return ownRoot({
    shows: () => {
      const real = realpathSync(program)
      const prefix = dirname(dirname(real))
      const data = ['/usr/share', join(prefix, 'share')].flatMap((share) => firmware.map((name) => join(share, name)))
      return [...libraries, join(prefix, 'lib'), join(prefix, 'lib64'), ...data, real, ...devices]
    },
    tryOut: (root) => makesMachine(kind, { ...lodging, root }, clock),
    log,
  })
}

/** It makes such a machine, for which it reads all that it ever reads, and is told to end. */
async function makesMachine(kind: MachineKind, lodging: Lodging, clock: Clock): Promise<void> {
  const { isolation } = lodging
  const directory = await mkdtemp(join(tmpdir(), 'tutti-qemu-'))
  const uid = isolation.claim({ arch: 'amd64', cpus: 1, memoryMiB: 128 }, lodging.overheadBytes)
  using inherited = new Inherited()
  inherited.stdio.splice(0, 1, 'pipe', 'ignore', 'pipe')
  using limit = deadline(clock, 10_000)
  try {
    const command = [
      ...[kind.program, '-machine', kind.type, '-accel', kind.accelerator, '-cpu', kind.cpu],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-S', '-monitor', 'stdio'],
    ]
    const child = startLodged({ lodging, uid, command, directory, inherited })
    child.stdin?.end('quit\n')
    let said = ''
    child.stderr?.on('data', (piece) => {
      said += piece
    })
    limit.signal.addEventListener('abort', () => child.kill('SIGKILL'))
    const [code] = await once(child, 'exit')
    if (code !== 0) throw new Error(`QEMU does not run in a file system of its own: ${said.trim()}`)
  } finally {
    await isolation.release(uid)
    await rm(directory, { recursive: true })
  }
}
