import { spawn } from 'node:child_process'
import { type Clock, deadline } from '../../kit/clock.ts'
import { cmdlineOf, type MachineKind } from './command.ts'

export interface ProbeOptions {
  kind: MachineKind
  arch: 'amd64' | 'arm64'
  kernel: string
  limitMs: number
  clock: Clock
}

/**
 * Whether this kind of machine boots: starts a kernel with nothing to run, and waits for it to say so. By then it has
 * unpacked itself, has memory, interrupts, timers and a console. That a device file exists says nothing: there are
 * hosts with a /dev/kvm that only a kernel made for it gets past its first instructions on.
 */
export async function boots({ kind, arch, kernel, limitMs, clock }: ProbeOptions): Promise<boolean> {
  const child = spawn(
    kind.program,
    [
      ...['-machine', kind.type, '-accel', kind.accelerator, '-cpu', kind.cpu, '-m', '128'],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio'],
      ...['-kernel', kernel, '-append', cmdlineOf(kind, arch)],
    ],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  )
  using limit = deadline(clock, limitMs)
  try {
    return await new Promise<boolean>((resolve) => {
      let said = ''
      child.stdout.on('data', (piece: Buffer) => {
        said = (said + piece.toString('latin1')).slice(-10_000)
        if (said.includes('Unable to mount root fs')) resolve(true)
      })
      child.once('error', () => resolve(false))
      child.once('exit', () => resolve(false))
      limit.signal.addEventListener('abort', () => resolve(false))
    })
  } finally {
    child.kill('SIGKILL')
  }
}
