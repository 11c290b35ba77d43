import { existsSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Manifest } from '../../blocks/manifest.ts'
import type { ObjectStore } from '../../blocks/objects.ts'
import { type CleanOptions, type CleanReport, collectAndRepack } from '../../blocks/operations/collect-and-repack.ts'
import { connectBlockServer } from '../../blocks/server/client.ts'
import type { BlockServer } from '../../blocks/server/protocol.ts'
import { blockServerSocket } from '../../blocks/server/start.ts'
import { lockDirectory } from '../../blocks/store/lock.ts'
import type { Cli } from '../../cli/cli.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { BuildStore } from './store.ts'

/**
 * A store that is to be changed. The directory of a content store has one process that changes it: a block server that
 * runs is asked to do what must be done in one piece, and where none runs, we hold the lock that it would hold.
 */
export interface WritableStore extends AsyncDisposable {
  /** To copy builds to. What makes a build of them goes through the block server. */
  readonly objects: ObjectStore
  collect(options: Omit<CleanOptions, 'clock'>): Promise<Collected>
}

/** A block server of an earlier version says nothing of layers. */
export type Collected = Omit<CleanReport, 'layers'> & { layers?: CleanReport['layers'] | undefined }

export async function writeToStore(cli: Cli, { objects, directory }: BuildStore): Promise<WritableStore> {
  const here = (options: Omit<CleanOptions, 'clock'>) => collectAndRepack(objects, { clock: cli.clock, ...options })
  // Only a content store has a lock; any other directory, and every bucket, is shared by rules that need none.
  if (directory === undefined || !existsSync(join(directory, 'lock')))
    return { objects, collect: here, [Symbol.asyncDispose]: async () => {} }
  const server = await serverOf(directory, cli.signal)
  if (!server) {
    const lock = lockDirectory(directory)
    return { objects, collect: here, [Symbol.asyncDispose]: async () => lock[Symbol.dispose]() }
  }
  const { signal } = cli
  return {
    objects: adoptedBy(server, objects, signal),
    collect: (options) => server.ask('collect', options, { signal }),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

/** The block server whose content lies there, when it runs. */
async function serverOf(directory: string, signal: AbortSignal): Promise<BlockServer | undefined> {
  if (basename(directory) !== 'content') return undefined
  const socket = blockServerSocket(dirname(directory))
  return connectBlockServer({ socket, signal }).catch((error: unknown) => {
    if (error instanceof Fault && error.code === 'unavailable') return undefined
    throw error
  })
}

/** Packs are put into the directory; manifest and name come in one piece, from the server. */
function adoptedBy(server: BlockServer, objects: ObjectStore, signal: AbortSignal): ObjectStore {
  let copied: Manifest | undefined
  return {
    ...objects,
    async put(key, body, options) {
      if (key.startsWith('builds/')) copied = Manifest.parse(JSON.parse(String(body)))
      else if (key.startsWith('refs/') && copied) {
        const { build } = JSON.parse(String(body)) as { build: BuildId }
        if (copied.id !== build)
          throw new Fault('internal', `${key} is to lead to ${build}, and ${copied.id} was copied`)
        const reference = key.slice('refs/'.length).replace(/\.json$/, '')
        await server.ask('adopt', { manifest: copied, reference }, { signal })
      } else await objects.put(key, body, options)
    },
  }
}
