import { posix } from 'node:path'
import type { GuestChannel } from '../../guest/channel.ts'
import { Fault } from '../../model/fault.ts'

/** A place to mount on. What had to be made for it goes again, as long as nothing was put there. */
export async function mountPoint(
  { files }: GuestChannel,
  path: string,
  kind: 'file' | 'directory',
  signal: AbortSignal,
): Promise<{ remove(): Promise<void> }> {
  const isThere = async (each: string) =>
    files.stat(each, { signal }).then(
      () => true,
      (error: unknown) => {
        if (error instanceof Fault && error.code === 'not_found') return false
        throw error
      },
    )
  const made: string[] = []
  for (let at = path; at !== '/' && !(await isThere(at)); at = posix.dirname(at)) made.push(at)
  if (made.length > 0 && kind === 'directory') await files.makeDirectory(path, { signal })
  if (made.length > 0 && kind === 'file') {
    const writing = await files.write(path, { mode: 0o644, signal })
    writing.end()
    await writing.written
  }
  return {
    async remove() {
      for (const each of made) {
        const isFile = each === path && kind === 'file'
        if (!(await isThere(each))) continue
        if (!isFile && (await files.list(each, { signal })).length > 0) return
        await files.remove(each, { signal })
      }
    },
  }
}
