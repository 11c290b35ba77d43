import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { realpath } from 'node:fs/promises'
import { basename, dirname, extname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { openOf } from '../../blocks/operations/images.ts'
import type { Cli, Given } from '../../cli/cli.ts'
import { findHome } from '../../cli/home.ts'
import { flagOption, textOption } from '../../cli/options.ts'
import { paint } from '../../cli/output/text.ts'
import { ExitWith } from '../../cli/report-failure.ts'
import { Fault, sentence } from '../../model/fault.ts'
import { findBuild } from '../builds/find-build.ts'
import { hasUnplayedJournal, mountDisk } from '../builds/mount-disk.ts'
import { removeMountNote, writeMountNote } from '../builds/mount-notes.ts'
import { openBuildStore } from '../builds/store.ts'

/** How soon it is seen that somebody else has unmounted it. */
const lookEveryMs = 500

/** `tutti build mount`: a build's root file system, to be read, until Ctrl-C or `tutti build unmount`. */
export async function run(cli: Cli, given: Given): Promise<undefined> {
  const { args, options } = given
  const directory = await wholePath(args[1] ?? '')
  const store = await openBuildStore(cli, textOption(options, 'store'))
  const id = await findBuild(cli, store, args[0] ?? '', { context: textOption(options, 'context') })
  if (flagOption(options, 'detach')) return detach(cli, id, directory, textOption(options, 'store'))
  const manifest = await store.source.manifest(id)
  const reader = await openOf(store.source, manifest, manifest.disk)
  if (await hasUnplayedJournal(reader))
    say(
      cli,
      'the disk was saved while its file system was in use: its journal is not replayed, so the last changes may be missing',
    )
  await using mounted = await mountDisk(reader, {
    directory,
    clock: cli.clock,
    signal: cli.signal,
    onProblem: (error) => say(cli, sentence(error)),
  })
  await writeMountNote(cli, directory, { pid: process.pid, scratch: mounted.scratch })
  try {
    cli.stdout.write(`${id} is mounted at ${directory}; Ctrl-C or "tutti build unmount ${directory}" ends it\n`)
    while (!cli.signal.aborted && !(await mounted.isGone()))
      await cli.clock.sleep(lookEveryMs, { signal: cli.signal }).catch(() => {})
  } finally {
    await removeMountNote(cli, directory)
  }
}

/** Through links, so that it is what the kernel's table says; what is not there yet is made by the mount. */
async function wholePath(text: string): Promise<string> {
  if (text === '') throw new Fault('invalid', 'say where to mount it')
  const path = resolve(text)
  if (existsSync(path)) return realpath(path)
  const parent = dirname(path)
  if (!existsSync(parent)) throw new Fault('invalid', `there is no directory ${parent}`)
  return join(await realpath(parent), basename(path))
}

/** Once more in the background; we wait until it is mounted, or has said why not. */
async function detach(cli: Cli, id: string, directory: string, store: string | undefined): Promise<undefined> {
  const program = fileURLToPath(new URL(`../tutti${extname(import.meta.url)}`, import.meta.url))
  const words = ['build', 'mount', id, directory, ...(store === undefined ? [] : ['--store', store])]
  const child = spawn(process.execPath, [program, ...words], {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env:
      findHome({ env: cli.env }).cache === cli.home.cache
        ? cli.env
        : { ...cli.env, TUTTI_HOME: dirname(cli.home.agentData) },
  })
  child.stderr.on('data', (text: Buffer) => void cli.stderr.write(text))
  const said = once(createInterface({ input: child.stdout }), 'line')
  const ended = once(child, 'exit')
  const [first] = await Promise.race([said, ended])
  if (typeof first !== 'string') throw new ExitWith(Number(first ?? 1))
  for (const stream of [child.stdout, child.stderr]) stream.destroy()
  child.unref()
  cli.stdout.write(`${id} is mounted at ${directory}; "tutti build unmount ${directory}" ends it\n`)
  return undefined
}

function say(cli: Cli, text: string): void {
  cli.stderr.write(`${paint(cli.stderr, 'busy', 'tutti:')} ${text}\n`)
}
