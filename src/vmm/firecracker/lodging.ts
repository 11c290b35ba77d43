import { realpathSync } from 'node:fs'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import type { Isolation } from '../isolation/isolation.ts'
import { kvmGroup, type Lodging } from '../isolation/lodging.ts'
import { libraries, ownRoot } from '../isolation/own-root.ts'
import { tryOut } from '../isolation/try-out.ts'

export interface LodgingSettings {
  isolated: () => Isolation | undefined
  clock: Clock
  log: Log
  /** By an absolute name. */
  program: string
  /** What the program needs beside itself; Firecracker needs nothing. */
  shows: readonly string[]
}

/** Beside the guest's memory. */
const overheadBytes = 128 * 2 ** 20

/** As whom and where a Firecracker runs, in an empty network; undefined as the agent. */
export function createLodging({
  isolated,
  clock,
  log,
  program,
  shows,
}: LodgingSettings): () => Promise<Lodging | undefined> {
  let makeRoot: ReturnType<typeof ownRoot> | undefined
  return async () => {
    const isolation = isolated()
    if (isolation === undefined) return undefined
    const kvm = await kvmGroup()
    const gid = typeof kvm === 'object' ? undefined : kvm
    const lodging: Lodging = { isolation, root: undefined, overheadBytes, gid, network: isolation.network }
    makeRoot ??= ownRoot({
      shows: () => [
        ...[...libraries, ...shows, realpathSync(program)],
        ...['/dev/null', '/dev/urandom', '/dev/kvm', '/dev/net/tun'],
      ],
      tryOut: (root) => tryOut([program, '--version'], { lodging: { ...lodging, root }, clock }),
      log,
    })
    const root = await makeRoot()
    if (root !== undefined || typeof kvm !== 'object') return { ...lodging, root }
    log.info({ why: kvm.lacking }, 'VMMs run as the user of the agent')
    return undefined
  }
}
