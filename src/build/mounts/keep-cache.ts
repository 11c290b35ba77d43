import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import type { GuestChannel } from '../../guest/channel.ts'
import { Fault } from '../../model/fault.ts'
import { lastLines } from '../machine.ts'
import { isMissing, ownSurroundings, runCommand } from '../steps/run-command.ts'

/** Puts what a cache had into a directory of the guest, with the guest's own `tar`. */
export async function restoreCache(
  channel: GuestChannel,
  { place, archive, signal }: { place: string; archive: Readable | undefined; signal: AbortSignal },
): Promise<void> {
  if (archive === undefined) return
  const { code, output } = await runCommand(channel, {
    command: ['tar', '-x', '-p', '-f', '-', '-C', place],
    surroundings: ownSurroundings,
    input: (stdin) => pipeline(archive, stdin),
    signal,
  }).catch((error: unknown) => {
    archive.destroy()
    throw explained(error)
  })
  if (code !== 0) throw new Fault('unavailable', lastLines(output.join('\n'), 2) || `tar ended with ${code}`)
}

/** Hands what is in the directory to `keep`, as an archive. */
export async function saveCache(
  channel: GuestChannel,
  { place, keep, signal }: { place: string; keep: (archive: Readable) => Promise<void>; signal: AbortSignal },
): Promise<void> {
  const { env, user, cwd } = ownSurroundings
  const command = ['tar', '-c', '-f', '-', '-C', place, '.']
  const execution = await channel.start({ command, env, user, cwd }, { signal }).catch((error: unknown) => {
    throw explained(error)
  })
  execution.stdin.on('error', () => {}).end()
  const complaints = execution.stderr ? text(execution.stderr) : Promise.resolve('')
  complaints.catch(() => {})
  const ending = execution.exited.then(async ({ code }) => {
    // One that changed while it was read is no less a cache.
    if (code > 1) throw new Fault('unavailable', lastLines(await complaints, 2) || `tar ended with ${code}`)
  })
  ending.catch(() => {})
  // Only what is whole takes the place of what was there.
  async function* whole() {
    yield* execution.stdout as AsyncIterable<Buffer>
    await ending
  }
  await keep(Readable.from(whole(), { objectMode: false })).catch((error: unknown) => {
    execution.kill('SIGKILL')
    throw error
  })
}

function explained(error: unknown): unknown {
  return isMissing(error) ? new Fault('unavailable', 'the image has no "tar" to bring it with') : error
}
