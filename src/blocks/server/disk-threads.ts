import type { Fault } from '../../model/fault.ts'
import { type CalledWorker, describeFault, startWorker } from './call-worker.ts'
import type { DiskRequest, FetchAsked, Fetched, Traffic } from './disk-protocol.ts'

type OpenOptions = Omit<DiskRequest & { kind: 'open' }, 'kind' | 'name'>

export interface DiskThreads extends AsyncDisposable {
  /** Serves it; gives the epoch that it is in. */
  open(name: string, options: OpenOptions): Promise<number>
  close(name: string): Promise<void>
  call<Answer>(name: string, request: DiskRequest): Promise<Answer>
  /** Of all disks since the start. */
  traffic(): Promise<Traffic>
}

/** A few threads that share the disks between them; `fetch` brings chunks of an image into its file. */
export function startDiskThreads(options: {
  count: number
  fetch: (key: string, first: number, last: number) => Promise<void>
  onBroken: (fault: Fault) => void
}): DiskThreads {
  const threads = Array.from({ length: options.count }, () => {
    const worker: CalledWorker<DiskRequest> = startWorker('disk-worker', import.meta.url, fetched, options.onBroken)
    function fetched(message: unknown): void {
      const { fetch, key, first, last } = message as FetchAsked
      options.fetch(key, first, last).then(
        () => worker.tell({ kind: 'fetched', fetch, fault: undefined } satisfies Fetched),
        (error) => worker.tell({ kind: 'fetched', fetch, fault: describeFault(error).message } satisfies Fetched),
      )
    }
    return { worker, names: new Set<string>() }
  })
  const threadOf = (name: string) => threads.find(({ names }) => names.has(name))
  return {
    async open(name, rest) {
      const thread = threads.reduce((least, one) => (one.names.size < least.names.size ? one : least))
      thread.names.add(name)
      try {
        return await thread.worker.call<number>({ kind: 'open', name, ...rest })
      } catch (error) {
        thread.names.delete(name)
        throw error
      }
    },
    async close(name) {
      const thread = threadOf(name)
      if (thread === undefined) return
      await thread.worker.call({ kind: 'close', name })
      thread.names.delete(name)
    },
    call(name, request) {
      const thread = threadOf(name) ?? threads[0]
      if (thread === undefined) throw new RangeError('there are no threads')
      return thread.worker.call(request)
    },
    async traffic() {
      const all = await Promise.all(threads.map(({ worker }) => worker.call<Traffic>({ kind: 'traffic' })))
      return {
        read: all.reduce((sum, { read }) => sum + read, 0),
        written: all.reduce((sum, { written }) => sum + written, 0),
      }
    },
    async [Symbol.asyncDispose]() {
      for (const { worker } of threads) await worker[Symbol.asyncDispose]()
    },
  }
}
