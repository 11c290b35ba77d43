import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { fileObjects } from '../../blocks/objects/file.ts'
import { openObjects } from '../../blocks/objects/open.ts'
import { retrying } from '../../blocks/objects/retry.ts'
import type { ObjectStore } from '../../blocks/objects.ts'
import { type BuildSource, readBuilds } from '../../blocks/operations/source.ts'
import type { Cli } from '../../cli/cli.ts'
import { Fault } from '../../model/fault.ts'

/** A store of builds as a command line names it. It is read without a lock, also while a block server has it open. */
export interface BuildStore {
  readonly objects: ObjectStore
  readonly source: BuildSource
  /** Of a store on this machine; absent for a bucket. */
  readonly directory?: string
}

/**
 * The store of a URL or a directory; without one, that of this machine's agent. A directory may be the store itself, or a
 * block server's or an agent's that has one. `mustExist`: unless something is to be written there. The agent's own is made
 * where there is an agent: it makes it itself only when it is first asked for a sandbox.
 */
export async function openBuildStore(
  cli: Cli,
  text: string | undefined,
  { mustExist = true }: { mustExist?: boolean } = {},
): Promise<BuildStore> {
  const { random, clock } = cli
  if (text !== undefined && /^[a-z][a-z0-9+.-]*:/i.test(text) && !/^file:/i.test(text)) {
    const objects = retrying(await openObjects(text, { random }), { clock, random })
    return { objects, source: readBuilds(objects) }
  }
  const named = text === undefined ? ownBlocks(cli) : await directoryOf(text, cli)
  const directory = text === undefined ? join(named, 'content') : contentOf(named)
  const isToBeMade = !mustExist && text === undefined && existsSync(cli.home.agentData)
  // Memory of machines lies there: nobody else is to read it.
  if (isToBeMade) await mkdir(directory, { recursive: true, mode: 0o700 })
  else if ((mustExist || text === undefined) && !existsSync(directory)) throw noStore(directory, text)
  const objects = fileObjects({ directory, random })
  return { objects, source: readBuilds(objects), directory }
}

/** Of the block server of this machine's agent. */
function ownBlocks({ home }: Pick<Cli, 'home'>): string {
  return join(home.agentData, 'sandboxes', 'blocks')
}

async function directoryOf(text: string, { random }: Cli): Promise<string> {
  if (!/^file:/i.test(text)) return resolve(text)
  const { url } = await openObjects(text, { random })
  return url.slice('file:'.length)
}

function contentOf(directory: string): string {
  if (existsSync(join(directory, 'builds'))) return directory
  const inside = ['content', 'blocks/content', 'sandboxes/blocks/content', 'agent/sandboxes/blocks/content']
  return inside.map((part) => join(directory, part)).find((path) => existsSync(join(path, 'builds'))) ?? directory
}

function noStore(directory: string, text: string | undefined): Fault {
  if (text !== undefined) return new Fault('not_found', `there is no store of builds at ${directory}`)
  return new Fault(
    'not_found',
    `this machine has no builds: there is nothing at ${directory}; name another store with --store, or make a build with "tutti template build"`,
  )
}
