import { join } from 'node:path'
import type { MachineShape } from '../../model/sandbox.ts'

/** One kind of machine as this node's QEMU can make it. */
export interface MachineKind {
  /** The program, such as `qemu-system-x86_64`. */
  program: string
  /** Versioned, such as `pc-q35-7.2`: what it consists of never changes, whatever QEMU runs it. */
  type: string
  accelerator: 'kvm' | 'tcg' | 'hvf'
  /** CPU model, by name. */
  cpu: string
}

export interface CommandOptions {
  kind: MachineKind
  shape: MachineShape
  directory: string
  /** `image`: memory is this file. `later`: QEMU waits before it makes the machine, to be given memory. */
  memory: { path: string; shared: boolean } | 'later'
  start: { kernel: string; initrd: string; cmdline: string } | 'incoming'
  /** By name unless said. */
  reach?: Reach
}

/** How QEMU gets at what it is given: by name, or as a descriptor that it inherits. */
export interface Reach {
  /** Where it listens, as `-chardev socket` takes it. */
  monitor: string
  channel: string
  console: string
  /** The name by which it opens this file. */
  file(path: string, use: 'read' | 'own memory' | 'private memory'): string
}

export function byName(directory: string): Reach {
  const files = filesOf(directory)
  return {
    monitor: `path=${escaped(files.monitor)}`,
    channel: `path=${escaped(files.channel)}`,
    console: files.console,
    file: (path) => path,
  }
}

/** An argument by which a process is known for the one of this directory, when its note was never written. */
export function markArgument(directory: string): string {
  return `guest=${escaped(directory)}`
}

/** Sockets and logs of one machine. Short names, since a socket's path is cut at 108 bytes. */
export function filesOf(directory: string) {
  return {
    note: join(directory, 'vm.json'),
    monitor: join(directory, 'qmp.sock'),
    channel: join(directory, 'agent.sock'),
    console: join(directory, 'console.log'),
    log: join(directory, 'vmm.log'),
    devicesIn: join(directory, 'devices.in'),
    devicesOut: join(directory, 'devices.out'),
    // What the preloaded library looks for; see native/memory-layers.c.
    lazy: join(directory, `${layersPath}.lazy`),
    over: join(directory, `${layersPath}.over`),
    overRuns: join(directory, `${layersPath}.over.runs`),
    migration: join(directory, 'out.sock'),
  }
}

/** What the preloaded library is told: the path that its files have in common, from the directory that QEMU runs in. */
export const layersPath = 'memory'

/** The file descriptor on which a QEMU that waits finds the device state. */
export const devicesDescriptor = 3

/**
 * The devices, in this order, with these names and places, for ever: a snapshot fits only a machine that has exactly the
 * same. What they lead to is not part of a snapshot and is put in place over the monitor (`attach.ts`), so that every
 * machine starts with the same arguments. There is no balloon and must never be one: on a privately mapped memory file
 * it punches holes into the file itself.
 */
export function commandOf(options: CommandOptions): string[] {
  const { kind, shape, directory, memory, start, reach = byName(directory) } = options
  return [
    kind.program,
    ...['-name', markArgument(directory)],
    ...[
      '-machine',
      [kind.type, ...withoutExtras(shape), ...(memory === 'later' ? [] : ['memory-backend=m0'])].join(','),
    ],
    ...['-accel', kind.accelerator === 'tcg' ? 'tcg,tb-size=128' : kind.accelerator],
    ...['-cpu', kind.cpu, '-smp', String(shape.cpus), '-m', String(shape.memoryMiB)],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-S'],
    // Without it a file that the devices' state was saved to is not one that an incoming migration takes.
    ...['-global', 'migration.send-configuration=off'],
    ...(memory === 'later'
      ? ['-preconfig']
      : [
          '-object',
          memoryObject({
            ...memory,
            path: reach.file(memory.path, memory.shared ? 'own memory' : 'private memory'),
            shape,
          }),
        ]),
    ...['-chardev', `file,id=console,path=${escaped(reach.console)}`, '-serial', 'chardev:console'],
    ...['-chardev', `socket,id=agent,${reach.channel},server=on,wait=off`],
    ...['-device', 'virtio-serial-pci,id=serial0,addr=0x2'],
    ...['-device', 'virtserialport,id=port0,bus=serial0.0,nr=1,chardev=agent,name=tutti.agent'],
    ...['-blockdev', 'driver=null-co,node-name=nothing,size=1073741824,read-zeroes=on'],
    ...['-blockdev', 'driver=raw,node-name=disk,file=nothing,discard=unmap,detect-zeroes=unmap'],
    // A full disk is told to the guest, which can do something about it; QEMU would stop the machine, for good as it looks.
    ...['-device', 'virtio-blk-pci,id=disk0,addr=0x3,drive=disk,num-queues=1,physical_block_size=4096,werror=report'],
    ...['-netdev', 'hubport,id=net0,hubid=0'],
    ...['-device', 'virtio-net-pci,id=nic0,addr=0x4,netdev=net0,mac=52:54:00:00:00:01,romfile='],
    ...['-object', 'rng-random,id=entropy,filename=/dev/urandom'],
    ...['-device', 'virtio-rng-pci,id=rng0,addr=0x5,rng=entropy'],
    ...['-chardev', `socket,id=monitor,${reach.monitor},server=on,wait=off`],
    ...['-mon', 'chardev=monitor,mode=control'],
    // Whatever breaks out of a guest into QEMU can start no program and become nobody else.
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...(start === 'incoming'
      ? ['-incoming', 'defer']
      : [
          ...['-kernel', reach.file(start.kernel, 'read'), '-initrd', reach.file(start.initrd, 'read')],
          ...['-append', start.cmdline],
        ]),
  ]
}

/** Controllers that nothing is connected to: 3 ms of every start, and code for a guest to attack. */
function withoutExtras({ arch }: MachineShape): string[] {
  return arch === 'amd64' ? ['sata=off', 'smbus=off', 'usb=off', 'vmport=off'] : []
}

function memoryObject({ path, shared, shape }: { path: string; shared: boolean; shape: MachineShape }): string {
  const share = shared ? 'on' : 'off'
  return `memory-backend-file,id=m0,size=${shape.memoryMiB}M,mem-path=${escaped(path)},share=${share}`
}

/** In QEMU's lists of options a comma is written twice. */
function escaped(path: string): string {
  return path.replaceAll(',', ',,')
}

/**
 * What the kernel is told. Under emulation the guest's time stamp counter runs at the rate of the host's, and a snapshot
 * may wake up on a host with another rate, so time is kept by a timer that QEMU makes; and a guest that waits for its turn on a busy host
 * looks stuck to itself, so nothing in it watches for that. Under KVM the kernel has a clock of KVM's and knows better.
 */
export function cmdlineOf(kind: Pick<MachineKind, 'accelerator'>, arch: MachineShape['arch'], extra = ''): string {
  const words = [`console=${arch === 'amd64' ? 'ttyS0' : 'ttyAMA0'}`, 'panic=-1', 'quiet', 'nowatchdog']
  if (arch === 'amd64') words.push('reboot=t')
  // Emulated memory is never read ahead of a check, and what guards against that costs a flush with every system call.
  if (kind.accelerator === 'tcg') words.push('rcupdate.rcu_cpu_stall_suppress=1', 'mitigations=off')
  if (kind.accelerator === 'tcg' && arch === 'amd64') words.push('tsc=unstable', 'clocksource=hpet', 'no_timer_check')
  if (extra !== '') words.push(extra)
  return words.join(' ')
}
