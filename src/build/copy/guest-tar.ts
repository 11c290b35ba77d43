import type { GuestChannel } from '../../guest/channel.ts'
import { ownSurroundings, runCommand } from '../steps/run-command.ts'

/** The `tar` of a guest: GNU's keeps extended attributes and links, another may not; `none` in an image without one. */
export async function guestTar(channel: GuestChannel, signal: AbortSignal): Promise<'gnu' | 'other' | 'none'> {
  const { code, output } = await runCommand(channel, {
    ...{ command: ['tar', '--version'], surroundings: ownSurroundings, signal },
  }).catch(() => ({ code: 127, output: [] }))
  if (code === 127) return 'none'
  return output.some((line) => line.includes('GNU tar')) ? 'gnu' : 'other'
}
