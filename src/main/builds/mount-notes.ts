import { createHash } from 'node:crypto'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Cli } from '../../cli/cli.ts'

/** Which process serves a mount, so that `tutti build unmount` finds it, and what to clean up when it is gone. */
const MountNote = z.strictObject({ pid: z.int().positive(), scratch: z.string().max(4096) })
export type MountNote = z.infer<typeof MountNote>

export async function writeMountNote({ home }: Cli, directory: string, note: MountNote): Promise<void> {
  await mkdir(join(home.cache, 'mounts'), { recursive: true, mode: 0o700 })
  await writeFile(pathOf(home.cache, directory), JSON.stringify(note), { mode: 0o600 })
}

export async function readMountNote({ home }: Cli, directory: string): Promise<MountNote | undefined> {
  const text = await readFile(pathOf(home.cache, directory), 'utf8').catch(() => undefined)
  if (text === undefined) return undefined
  try {
    return MountNote.parse(JSON.parse(text))
  } catch {
    return undefined
  }
}

export async function removeMountNote({ home }: Cli, directory: string): Promise<void> {
  await rm(pathOf(home.cache, directory), { force: true })
}

/** Numbers of processes are given again: only one that still serves this mount's files. */
export async function isServing({ pid, scratch }: MountNote): Promise<boolean> {
  const sockets = await readFile(`/proc/${pid}/net/unix`, 'utf8').catch(() => '')
  return sockets.includes(join(scratch, 's'))
}

function pathOf(cache: string, directory: string): string {
  return join(cache, 'mounts', `${createHash('sha256').update(directory).digest('hex').slice(0, 32)}.json`)
}
