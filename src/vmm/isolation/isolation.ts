import { randomInt } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { type Cgroups, findCgroups } from '../../kit/cgroups.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import type { MachineShape } from '../../model/sandbox.ts'
import { loadNative, type Native } from './native.ts'
import { spareUids, type UidRange } from './uids.ts'

/**
 * Where the agent is root, every VMM is a user of its own that has nothing and may nothing: no file, no directory to write
 * in, no network. Whatever it needs is opened by the agent and handed to it as a descriptor. Its control group bears its
 * user's number, so that the group also says which numbers are taken, on the whole machine.
 */
export interface Isolation {
  readonly native: Native
  /** Where VMMs have their network stack; undefined where no namespace can be made. */
  readonly network: number | undefined
  /** A user that nothing else runs as, with a group of that size to be entered. */
  claim(shape: MachineShape, overheadBytes: number): number
  /** Puts a process into its user's group. The kernel takes some ms for it, in which the process may go on. */
  enter(uid: number, pid: number): Promise<void>
  /** Whether the kernel ended something of that user because its group had no memory left. */
  ranOutOfMemory(uid: number): boolean
  /** When its processes are gone. Idempotent. */
  release(uid: number): Promise<void>
}

export interface NoIsolation {
  /** Why VMMs run as the agent's own user, one sentence's worth. */
  lacking: string
}

/** CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SYS_PTRACE: what it takes to look after other users. */
const needed = [0, 1, 5, 6, 7, 19].reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n)

const prefix = 'vm.'
/** The monitor's, the disk's and the reader's threads, and those of which QEMU does waiting. */
const threadsBeside = 128

/** Opened when it is first asked for; undefined, and said once, where VMMs run as the agent's own user. */
export function isolationOnce({ clock, log }: { clock: Clock; log: Log }): () => Isolation | undefined {
  let known: { found: Isolation | undefined } | undefined
  return () => {
    if (known) return known.found
    const opened = openIsolation({ clock })
    const isLacking = 'lacking' in opened
    if (isLacking) log.info({ why: opened.lacking }, 'VMMs run as the user of the agent')
    known = { found: isLacking ? undefined : opened }
    return known.found
  }
}

export function openIsolation({ clock }: { clock: Clock }): Isolation | NoIsolation {
  if (process.platform !== 'linux') return { lacking: 'this system is not Linux' }
  if (process.getuid?.() !== 0) return { lacking: 'the agent does not run as root' }
  if ((capabilities() & needed) !== needed) return { lacking: 'the agent, though root, may not look after other users' }
  const uids = spareUids(readFileSync('/proc/self/uid_map', 'utf8'))
  if (uids === undefined) return { lacking: 'this system has no users to spare' }
  const native = loadNative()
  if (native === undefined) return { lacking: 'this Node cannot call the system' }
  const groups = findCgroups()
  // Left by an agent that died before what it made them for was there.
  for (const name of groups.list(prefix)) if (groups.processes(name).length === 0) groups.remove(name)
  return new Users({ native, groups, uids, clock })
}

class Users implements Isolation {
  readonly native: Native
  readonly network: number | undefined
  readonly #groups: Cgroups
  readonly #uids: UidRange
  readonly #clock: Clock

  constructor(parts: { native: Native; groups: Cgroups; uids: UidRange; clock: Clock }) {
    this.native = parts.native
    this.network = parts.native.emptyNetwork()
    this.#groups = parts.groups
    this.#uids = parts.uids
    this.#clock = parts.clock
  }

  claim({ memoryMiB, cpus }: MachineShape, overheadBytes: number): number {
    const { first, last } = this.#uids
    const free = () => randomInt(first, last + 1)
    let uid = free()
    while (this.#groups.processes(nameOf(uid)).length > 0) uid = free()
    const memory = memoryMiB * 2 ** 20 + overheadBytes
    this.#groups.make(nameOf(uid), { memory, cores: cpus, pids: cpus + threadsBeside })
    return uid
  }

  async enter(uid: number, pid: number): Promise<void> {
    await Promise.all(this.#groups.doors(nameOf(uid)).map((door) => writeFile(door, String(pid))))
  }

  ranOutOfMemory(uid: number): boolean {
    return this.#groups.outOfMemoryKills(nameOf(uid)) > 0
  }

  async release(uid: number): Promise<void> {
    // A group counts a process for a moment longer than /proc does.
    for (let tries = 0; !this.#groups.remove(nameOf(uid)) && tries < 20; tries += 1) await this.#clock.sleep(5)
  }
}

function nameOf(uid: number): string {
  return `${prefix}${uid}`
}

/** The user whose process it is; undefined when it is gone. */
export function userOf(pid: number): number | undefined {
  return statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid
}

function capabilities(): bigint {
  const [, mask = '0'] = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  return BigInt(`0x${mask}`)
}
