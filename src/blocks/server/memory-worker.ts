import { parentPort } from 'node:worker_threads'
import { type ApplyRequest, apply } from '../memory/apply.ts'
import { type CaptureRequest, capture, touchedChunks } from '../memory/capture.ts'
import { describeFault, type WorkerAnswer } from './call-worker.ts'

/** A thread that copies memory from and to machines; it does nothing else meanwhile, and need not. */
export type MemoryRequest =
  | ({ kind: 'capture' } & CaptureRequest)
  | ({ kind: 'apply' } & ApplyRequest)
  | {
      kind: 'touched'
      pid: number
      path: string
      names: readonly string[] | undefined
      size: number
      chunkBytes: number
    }

const port = parentPort
if (port === null) throw new Error('this is a worker')

port.on('message', ({ id, ...request }: MemoryRequest & { id: number }) => {
  try {
    port.postMessage({ id, value: carryOut(request) } satisfies WorkerAnswer)
  } catch (error) {
    port.postMessage({ id, fault: describeFault(error) } satisfies WorkerAnswer)
  }
})

function carryOut(request: MemoryRequest): unknown {
  switch (request.kind) {
    case 'capture':
      return capture(request)
    case 'apply':
      return apply(request)
    case 'touched':
      return touchedChunks(request.pid, request.path, request.names, request.size, request.chunkBytes)
  }
}
