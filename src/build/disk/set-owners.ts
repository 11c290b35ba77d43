import { type Dirent, readdirSync } from 'node:fs'
import { lstat, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { AttributesByPath, Owners } from '../../images/owners.ts'
import { lastLine, runTool } from '../../images/run-tool.ts'
import { Fault } from '../../model/fault.ts'

export interface SetOwnersOptions {
  /** What the file system was made of. */
  root: string
  file: string
  owners: Owners
  attributes?: AttributesByPath | undefined
  /** For people. */
  what: string
  env: Record<string, string>
  signal: AbortSignal
}

/**
 * Has the files of an ext4 file system belong to whom the image says: written into it by the tool that debugs it, so nobody
 * needs to be root. What no layer speaks of is root's.
 */
export async function setOwners({
  root,
  file,
  owners,
  attributes,
  what,
  env,
  signal,
}: SetOwnersOptions): Promise<void> {
  const lines: string[] = []
  const set = async (path: string) => {
    const { mode: found } = await lstat(join(root, path))
    const { uid, gid, mode } = owners.get(path) ?? { uid: 0, gid: 0, mode: found & 0o7777 }
    const name = quote(`/${path}`, what)
    const all = (found & 0o170000) | mode
    lines.push(`sif ${name} uid ${uid}`, `sif ${name} gid ${gid}`, `sif ${name} mode 0${all.toString(8)}`)
  }
  await set('')
  for (const path of pathsBelow(root)) await set(path)
  const values: string[] = []
  for (const [path, byName] of attributes ?? [])
    for (const [name, value] of Object.entries(byName)) {
      const there = await lstat(join(root, path)).catch(() => undefined)
      if (!there || there.isSymbolicLink()) continue
      values.push(`${file}.value-${values.length}`)
      await writeFile(values.at(-1) ?? '', value)
      lines.push(`ea_set -f ${quote(values.at(-1) ?? '', what)} ${quote(`/${path}`, what)} ${quote(name, what)}`)
    }
  lines.push('sif /lost+found uid 0', 'sif /lost+found gid 0')
  const script = `${file}.owners`
  try {
    await writeFile(script, `${lines.join('\n')}\n`)
    const result = await runTool('debugfs', ['-w', '-f', script, file], { signal, env, keepBytes: 10_000 })
    if (result.code !== 0)
      throw new Fault('unavailable', `cannot give the files of ${what} to their owners: ${lastLine(result)}`)
  } finally {
    for (const each of [script, ...values]) await rm(each, { force: true })
  }
}

function* pathsBelow(root: string, below = ''): Generator<string> {
  const entries: Dirent[] = readdirSync(join(root, below), { withFileTypes: true })
  for (const entry of entries) {
    const path = below === '' ? entry.name : `${below}/${entry.name}`
    yield path
    if (entry.isDirectory()) yield* pathsBelow(root, path)
  }
}

/** As one word of the tool's own language, where a line ends a command. */
function quote(path: string, what: string): string {
  if (/[\n\0]/.test(path))
    throw new Fault('invalid', `${what} has a file with a line break in its name, which only root can bring to a disk`)
  return `"${path.replaceAll('"', '""')}"`
}
