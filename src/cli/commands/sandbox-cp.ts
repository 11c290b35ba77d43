import { lstat, mkdir, open, readdir, stat } from 'node:fs/promises'
import { basename, join, posix } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { Sandbox } from '../../client/sandbox.ts'
import { Fault } from '../../model/fault.ts'
import type { FileEntry } from '../../model/guest.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { type Progress, progress } from '../output/progress.ts'

/** Files that travel at the same time. */
const width = 8

/**
 * `tutti sandbox cp`: as `cp -r`, with `SANDBOX:PATH` on either side. What is copied into a directory that is there
 * keeps its name; else it gets the name that is given.
 */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [source, target] = [readPlace(args[0] ?? ''), readPlace(args[1] ?? '')]
  if (source.sandbox === undefined && target.sandbox === undefined)
    throw new Fault('invalid', 'one of the two must be in a sandbox, written SANDBOX:PATH')
  if (source.sandbox !== undefined && target.sandbox !== undefined)
    throw new Fault('invalid', 'only one of the two may be in a sandbox; copy here first, and from here into the other')
  for (const { sandbox, path } of [source, target])
    if (sandbox !== undefined && !path.startsWith('/'))
      throw new Fault('invalid', `say where in the sandbox, from its root, such as ${sandbox}:/tmp/${path}`)
  await using client = await cli.client(textOption(options, 'context'))
  const word = source.sandbox ?? target.sandbox ?? ''
  const { sandbox: found } = await client.getSandbox({ sandbox: word }, { signal: cli.signal })
  const sandbox = new Sandbox(client, found)
  using shown = progress(cli, { quiet: true })
  const copy: Copy = { cli, sandbox, shown, user: textOption(options, 'user'), files: 0 }
  if (target.sandbox !== undefined) await copyIn(copy, source.path, target.path)
  else await copyOut(copy, source.path, target.path)
  return undefined
}

interface Copy {
  cli: Cli
  sandbox: Sandbox
  shown: Progress
  user: string | undefined
  files: number
}

function readPlace(text: string): { sandbox?: string; path: string } {
  const [, sandbox, path] = /^([a-z0-9][a-z0-9-]{0,62}):(.*)$/s.exec(text) ?? []
  if (sandbox === undefined) return { path: text }
  return { sandbox, path: path ?? '' }
}

async function copyIn(copy: Copy, from: string, to: string): Promise<void> {
  const { cli, sandbox } = copy
  const owner = copy.user === undefined ? {} : { user: copy.user }
  if (from === '-') return sandbox.files.write(to, cli.stdin, { ...owner, signal: cli.signal })
  const target = (await isDirectoryInside(sandbox, to)) ? posix.join(to, basename(join(process.cwd(), from))) : to
  await treeIn(copy, from, target, owner)
}

async function treeIn(copy: Copy, from: string, to: string, owner: { user?: string }): Promise<void> {
  const { cli, sandbox, shown } = copy
  const here = await ours('read', from, () => stat(from))
  if (here.isDirectory()) {
    await sandbox.files.makeDirectory(to)
    const names = await ours('read', from, () => readdir(from))
    await inTurns(names, (name) => treeIn(copy, join(from, name), posix.join(to, name), owner))
  } else if (here.isFile()) {
    copy.files += 1
    shown.show(`${copy.files}: ${to}`)
    const mode = here.mode & 0o7777
    await using file = await ours('read', from, () => open(from))
    await sandbox.files.write(to, file.createReadStream({ autoClose: false }), { mode, ...owner, signal: cli.signal })
  } else shown.say(`${from} is neither a file nor a directory and is left out`, 'busy')
}

async function copyOut(copy: Copy, from: string, to: string): Promise<void> {
  const { cli, sandbox } = copy
  const entry = await sandbox.files.stat(from)
  if (to === '-') {
    await pipeline(await sandbox.files.stream(from, { signal: cli.signal }), cli.stdout, { end: false })
    return
  }
  const isThere = await lstat(to).then(
    (found) => found.isDirectory(),
    () => false,
  )
  const name = posix.basename(posix.normalize(from))
  await treeOut(copy, from, isThere && name !== '.' && name !== '/' ? join(to, name) : to, entry)
}

async function treeOut(copy: Copy, from: string, to: string, entry: FileEntry): Promise<void> {
  const { cli, sandbox, shown } = copy
  if (entry.type === 'directory') {
    await ours('make', to, () => mkdir(to, { recursive: true }))
    const entries = await sandbox.files.list(from)
    await inTurns(entries, (each) => treeOut(copy, posix.join(from, safe(each.name)), join(to, safe(each.name)), each))
  } else if (entry.type === 'file') {
    copy.files += 1
    shown.show(`${copy.files}: ${to}`)
    await using file = await ours('write', to, () => open(to, 'w'))
    const bytes = await sandbox.files.stream(from, { signal: cli.signal })
    await pipeline(bytes, async (chunks) => {
      for await (const chunk of chunks) await ours('write', to, () => file.writeFile(chunk))
    })
    await ours('write', to, () => file.chmod(entry.mode & 0o777))
  } else shown.say(`${from} is neither a file nor a directory and is left out`, 'busy')
}

/** What this machine refuses is nobody's bug. */
async function ours<T>(verb: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException
    if (code === '') throw error
    throw new Fault(
      code === 'ENOENT' ? 'not_found' : 'conflict',
      `cannot ${verb} ${path} here: ${reasons[code] ?? message}`,
    )
  }
}

const reasons: Record<string, string> = {
  ENOENT: 'there is no such file or directory',
  EACCES: 'it is not allowed',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is no directory',
  EEXIST: 'it is no directory',
  ENOSPC: 'the disk is full',
  EROFS: 'the disk cannot be written to',
}

/** What a sandbox calls its files is not ours to trust: a name must not lead elsewhere. */
function safe(name: string): string {
  if (name !== '' && name !== '.' && name !== '..' && !name.includes('/') && !name.includes('\0')) return name
  throw new Fault('invalid', `the sandbox has a file with the name ${JSON.stringify(name)}, which cannot be copied`)
}

async function isDirectoryInside(sandbox: Sandbox, path: string): Promise<boolean> {
  try {
    return (await sandbox.files.stat(path)).type === 'directory'
  } catch (error) {
    if (Fault.from(error).code !== 'not_found') throw error
    return path.endsWith('/')
  }
}

async function inTurns<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const left = items.values()
  const worker = async () => {
    for (const item of left) await work(item)
  }
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, worker))
}
