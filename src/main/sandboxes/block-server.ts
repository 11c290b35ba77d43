import { existsSync } from 'node:fs'
import type { BlockServer } from '../../blocks/server/protocol.ts'
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

/** One that runs with another store behind it makes room for one that has this; what is open goes on. */
async function startWith(options: Parameters<typeof keepBlockServer>[0]): Promise<BlockServer> {
  const { clock, signal, upstream = null } = options
  const server = await startBlockServer(options)
  const { pid, ...found } = await server.ask('list', {}, { signal })
  if (found.upstream === upstream) return server
  await server.ask('stop', {}, { signal })
  await server[Symbol.asyncDispose]()
  while (existsSync(`/proc/${pid}`)) await clock.sleep(10, { signal })
  return startBlockServer(options)
}
