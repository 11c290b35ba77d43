import { type ChildProcess, spawn } from 'node:child_process'
import { openSync, realpathSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import type { Inherited } from './inherited.ts'
import type { Isolation } from './isolation.ts'
import type { OwnRoot } from './own-root.ts'

/** As whom and where a VMM runs. */
export interface Lodging {
  isolation: Isolation
  /** The file system it has; undefined for that of the machine, with what everybody may read. */
  root: OwnRoot | undefined
  /** What it takes beside its guest's memory. */
  overheadBytes: number
  /** The group that may use hardware it needs; its user's own otherwise. */
  gid: number | undefined
  /** Its network stack, as a descriptor; undefined for the machine's own. */
  network: number | undefined
}

export interface LodgedOptions {
  lodging: Lodging
  uid: number
  /** By absolute names, since nobody looks for it. */
  command: readonly string[]
  /** Where it runs and can make nothing: as /machine, where it has a root of its own. */
  directory: string
  inherited: Inherited
  env?: NodeJS.ProcessEnv
}

/**
 * Starts a program that outlives us as a user of its own, for good, in what it was lodged in. All in one go: between entering
 * a network and leaving it nothing else of ours may run.
 */
export function startLodged({ lodging, uid, command, directory, inherited, env = {} }: LodgedOptions): ChildProcess {
  const { isolation, root, network, gid = uid } = lodging
  const { native } = isolation
  const common = { detached: true, cwd: directory, env }
  const start = () => {
    const [program = '', ...args] = command
    if (root === undefined) return spawn(program, args, { ...common, stdio: inherited.stdio, uid, gid })
    const [mounts, machine] = [inherited.lend(root.mounts), inherited.add(native.mountOf(directory))]
    // A link to it is not shown.
    const words = ['run', ...[mounts, machine, uid, gid].map(String), realpathSync(program), ...args]
    return spawn(root.enclose, words, { ...common, stdio: inherited.stdio })
  }
  return network === undefined ? start() : native.inNetwork(network, start)
}

/** A descriptor of the network stack that has this name. */
export function namedNetwork(name: string): number {
  return openSync(`/run/netns/${name}`, 'r')
}

/**
 * The group by which others than root use KVM: undefined where everybody may, and a reason where nobody else may, unless
 * they have a root of their own, with a device of their own in it.
 */
export async function kvmGroup(): Promise<number | undefined | { lacking: string }> {
  const found = await stat('/dev/kvm').catch(() => undefined)
  if (found === undefined) return { lacking: 'there is no /dev/kvm' }
  const { mode, gid } = found
  if ((mode & 0o006) === 0o006) return undefined
  if ((mode & 0o060) === 0o060 && gid !== 0) return gid
  return { lacking: 'no other may open /dev/kvm' }
}
