import { Worker } from 'node:worker_threads'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { type ChunkRead, readChunk } from './read-chunk.ts'
import type { Answer, Job } from './worker.ts'

/** Threads that hash, compress, read and verify, so that the thread of the caller never does. */
export interface Workers extends AsyncDisposable {
  readonly count: number
  run(job: Job): Promise<Answer>
  /** Reads a chunk from a pack; undefined when the bytes are not what the hash says. */
  read(read: ChunkRead): Promise<Buffer | undefined>
}

/** Chunks asked for in the same turn go to one worker together, up to so many: a message costs more than a read. */
const readsTogether = 8
/**
 * The first reads of a turn, up to so many bytes, are done where they are asked for: at 40 µs for 16 KiB they are over
 * before a worker would have begun. When one takes longer than `slowMs`, the bytes are not in the system's cache, and the
 * next ones go to workers.
 */
const bytesHere = 64 * 1024
const slowMs = 2
const readsAfterSlow = 64

export function startWorkers(count: number, { clock }: { clock: Clock }): Workers {
  const threads = Array.from({ length: count }, () => startThread())
  let waiting: { read: ChunkRead; done: PromiseWithResolvers<Buffer | undefined> }[] = []

  const run = (job: Job): Promise<Answer> => {
    let least = threads[0] as Thread
    for (const thread of threads) if (thread.busy < least.busy) least = thread
    return least.run(job)
  }

  let goToWorkers = 0
  const readHere = ({ read, done }: (typeof waiting)[number]): void => {
    const began = clock.monotonic()
    try {
      const chunk = readChunk(read)
      done.resolve(chunk && Buffer.from(chunk))
    } catch (error) {
      done.reject(error)
    }
    if (clock.monotonic() - began > slowMs) goToWorkers = readsAfterSlow
  }

  const send = (): void => {
    let here = 0
    if (goToWorkers === 0)
      for (let bytes = 0; here < waiting.length; here++) {
        bytes += waiting[here]?.read.bytes ?? 0
        if (bytes > bytesHere) break
      }
    goToWorkers = Math.max(0, goToWorkers - waiting.length)
    const readsHere = waiting.slice(0, here)
    const all = waiting.slice(here)
    waiting = []
    const share = Math.min(readsTogether, Math.ceil(all.length / count))
    for (let at = 0; at < all.length; at += share) {
      const batch = all.slice(at, at + share)
      run({ kind: 'read', reads: batch.map(({ read }) => read) }).then(
        ({ chunks }) => {
          for (const [n, { done }] of batch.entries()) {
            const chunk = chunks?.[n]
            done.resolve(chunk && Buffer.from(chunk))
          }
        },
        (error) => {
          for (const { done } of batch) done.reject(error)
        },
      )
    }
    for (const each of readsHere) readHere(each)
  }

  return {
    count,
    run,
    read(read) {
      const done = Promise.withResolvers<Buffer | undefined>()
      if (waiting.push({ read, done }) === 1) queueMicrotask(send)
      return done.promise
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(threads.map((thread) => thread.end()))
    },
  }
}

interface Thread {
  /** Jobs under way. */
  readonly busy: number
  run(job: Job): Promise<Answer>
  end(): Promise<void>
}

function startThread(): Thread {
  const worker = new Worker(workerUrl)
  const jobs = new Map<number, PromiseWithResolvers<Answer>>()
  let number = 0
  let ended: unknown
  worker.unref()
  worker.on('message', (answer: Answer) => {
    const job = jobs.get(answer.number)
    jobs.delete(answer.number)
    if (jobs.size === 0) worker.unref()
    if (answer.error !== undefined) job?.reject(answer.error)
    else job?.resolve(answer)
  })
  const fail = (error: unknown): void => {
    ended ??= error
    for (const job of jobs.values()) job.reject(ended)
    jobs.clear()
  }
  worker.on('error', fail)
  worker.on('exit', () => fail(new Fault('unavailable', 'the content store was closed')))
  return {
    get busy() {
      return jobs.size
    },
    run(job) {
      if (ended !== undefined) return Promise.reject(ended)
      const done = Promise.withResolvers<Answer>()
      if (jobs.size === 0) worker.ref()
      jobs.set(++number, done)
      worker.postMessage({ number, job })
      return done.promise
    },
    async end() {
      await worker.terminate()
    },
  }
}

/** As TypeScript beside this file, or compiled beside the compiled one. */
const workerUrl = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url)
