import { parentPort, workerData } from 'node:worker_threads'
import { Fault, sentence } from '../../model/fault.ts'
import type { Answer, Request, WorkerOptions } from './protocol.ts'
import { StateKeeper } from './state-keeper.ts'

/**
 * The thread that owns the database, so that nobody else ever waits for the disk. Requests come first; checkpoint and
 * compaction go in short steps, one for each turn of the event loop, and preferably while nobody writes.
 */
const port = parentPort
if (port === null) throw new Error('this file runs as a worker thread')

const keeper = new StateKeeper(workerData as WorkerOptions)
let isStepPlanned = false

port.on('message', (request: Request) => {
  if (request.kind === 'rest') keeper.rest()
  else port.postMessage(attempt(() => answer(request)))
  if (request.kind === 'close') port.close()
  planStep()
})

function answer(request: Exclude<Request, { kind: 'rest' }>): Answer {
  switch (request.kind) {
    case 'append':
      keeper.append(request.entries)
      return { kind: 'done', entries: [] }
    case 'read':
      return { kind: 'done', entries: keeper.read(request.after, request.limit) }
    case 'close':
      keeper.close()
      return { kind: 'done', entries: [] }
  }
}

function planStep(): void {
  if (isStepPlanned) return
  isStepPlanned = true
  setImmediate(() => {
    isStepPlanned = false
    try {
      if (keeper.step()) planStep()
    } catch (error) {
      port?.postMessage({ ...failure(error), kind: 'trouble' } satisfies Answer)
    }
  })
}

function attempt(work: () => Answer): Answer {
  try {
    return work()
  } catch (error) {
    return { kind: 'failed', ...failure(error) }
  }
}

function failure(error: unknown): Omit<Answer & { kind: 'failed' }, 'kind'> {
  const fault =
    error instanceof Fault ? error : new Fault('unavailable', `the database thread failed: ${sentence(error)}`)
  return { code: fault.code, message: fault.message, cause: sentence(fault.cause ?? '') }
}
