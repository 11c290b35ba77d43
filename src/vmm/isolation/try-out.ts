import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Clock, deadline } from '../../kit/clock.ts'
import { Inherited } from './inherited.ts'
import { type Lodging, startLodged } from './lodging.ts'

/** Runs a program as VMMs are to run, which has to end well within 10 s; rejects with its last words otherwise. */
export async function tryOut(
  command: readonly string[],
  { lodging, input = '', clock }: { lodging: Lodging; input?: string; clock: Clock },
): Promise<void> {
  const { isolation, overheadBytes } = lodging
  const directory = await mkdtemp(join(tmpdir(), 'tutti-trial-'))
  const uid = isolation.claim({ arch: 'amd64', cpus: 1, memoryMiB: 128 }, overheadBytes)
  using inherited = new Inherited()
  inherited.stdio.splice(0, 1, 'pipe', 'ignore', 'pipe')
  using limit = deadline(clock, 10_000)
  try {
    const child = startLodged({ lodging, uid, command, directory, inherited })
    const exit = once(child, 'exit')
    let said = ''
    child.stderr?.on('data', (piece) => {
      said += piece
    })
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
    limit.signal.addEventListener('abort', () => child.kill('SIGKILL'))
    const [code] = await exit
    if (code !== 0) throw new Error(`${command[0]} does not run as a user of its own: ${said.trim()}`)
  } finally {
    await isolation.release(uid)
    await rm(directory, { recursive: true })
  }
}
