import { type BlockServer, blockServerVersion } from '../../blocks/server/protocol.ts'
import { startBlockServer } from '../../blocks/server/start.ts'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'

/**
 * The block server of a node, found or started again whenever it is gone. What was asked of one that went away is asked
 * of the next: every request may be repeated.
 */
export async function keepBlockServer(options: {
  directory: string
  /** Object store for builds that are not here. */
  upstream?: string | undefined
  clock: Clock
  signal: AbortSignal
}): Promise<BlockServer> {
  let current = await startWith(options)
  let starting: Promise<BlockServer> | undefined
  const next = async (gone: BlockServer): Promise<BlockServer> => {
    if (current !== gone) return current
    starting ??= startBlockServer(options).then(
      (server) => {
        current = server
        starting = undefined
        return server
      },
      (error: unknown) => {
        starting = undefined
        throw error
      },
    )
    return starting
  }
  // Guests wait for their disks and their memory, so the next one is started before anybody asks.
  const watch = (server: BlockServer): void => {
    void server.gone?.then(async () => {
      while (!isClosed && !options.signal.aborted) {
        const after = await next(server).catch(() => undefined)
        if (after) return watch(after)
        await options.clock.sleep(retryMs, { signal: options.signal }).catch(() => {})
      }
    })
  }
  let isClosed = false
  watch(current)
  return {
    ask: async (name, request, how) => {
      let server = current
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await server.ask(name, request, how)
        } catch (error) {
          how.signal.throwIfAborted()
          const isGone = error instanceof Fault && error.code === 'unavailable' && error.message.endsWith('is gone')
          if (!isGone || attempt === mostAttempts) throw error
          // One that is being killed may still be found, and be gone a moment later.
          server = await next(server)
        }
      }
    },
    [Symbol.asyncDispose]: async () => {
      isClosed = true
      await current[Symbol.asyncDispose]()
    },
  }
}

const retryMs = 1000
const mostAttempts = 5

/** One of another version, or with another store behind it, makes room for one that fits; what is open goes on. */
async function startWith(options: Parameters<typeof keepBlockServer>[0]): Promise<BlockServer> {
  const { signal, upstream = null } = options
  const server = await startBlockServer(options)
  const found = await server.ask('list', {}, { signal }).catch((error: unknown) => {
    signal.throwIfAborted()
    // Not what this version would answer.
    if (Fault.from(error).code === 'unavailable') throw error
    return undefined
  })
  if (found?.version === blockServerVersion && found.upstream === upstream) return server
  // Whether or not it can say so before it goes.
  await server.ask('stop', {}, { signal }).catch(() => signal.throwIfAborted())
  await server.gone
  return startBlockServer(options)
}
