import { extname } from 'node:path'
import { Worker } from 'node:worker_threads'
import { Fault, type FaultCode } from '../../model/fault.ts'

/** A thread that is asked by number and answers so; `url` names its file without an ending, beside the caller. */
export interface CalledWorker<Request extends object> extends AsyncDisposable {
  call<Answer>(request: Request): Promise<Answer>
  tell(message: object): void
}

export interface WorkerAnswer {
  id: number
  value?: unknown
  fault?: { code: FaultCode; message: string }
}

export function startWorker<Request extends object>(
  name: string,
  importMetaUrl: string,
  onMessage: (message: unknown) => void = () => {},
  onBroken: (fault: Fault) => void = () => {},
): CalledWorker<Request> {
  const worker = new Worker(new URL(`./${name}${extname(importMetaUrl)}`, importMetaUrl), { name })
  const waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Fault) => void }>()
  let next = 0
  let broken: Fault | undefined
  let isEnding = false
  const breakAll = (cause?: unknown) => {
    if (broken === undefined) {
      broken = new Fault('unavailable', `the thread ${name} of the block server has ended`, { cause })
      if (!isEnding) onBroken(broken)
    }
    for (const { reject } of waiting.values()) reject(broken)
    waiting.clear()
  }
  worker.on('error', breakAll)
  worker.on('exit', () => breakAll())
  worker.on('message', (message: WorkerAnswer | { kind: string }) => {
    if (!('id' in message)) return onMessage(message)
    const asked = waiting.get(message.id)
    waiting.delete(message.id)
    if (message.fault) asked?.reject(new Fault(message.fault.code, message.fault.message))
    else asked?.resolve(message.value)
  })
  return {
    async call<Answer>(request: Request) {
      if (broken) throw broken
      const id = next++
      const answer = Promise.withResolvers<unknown>()
      waiting.set(id, answer)
      worker.postMessage({ id, ...request })
      return (await answer.promise) as Answer
    },
    tell: (message) => worker.postMessage(message),
    async [Symbol.asyncDispose]() {
      isEnding = true
      await worker.terminate()
    },
  }
}

const systemCodes: Record<string, FaultCode> = {
  ENOSPC: 'exhausted',
  EDQUOT: 'exhausted',
  ENOMEM: 'exhausted',
  EMFILE: 'exhausted',
  ENOENT: 'not_found',
  EACCES: 'denied',
  EPERM: 'denied',
  EINVAL: 'invalid',
}

/** What a thread, or a caller over a socket, is told of what was thrown. */
export function describeFault(thrown: unknown): { code: FaultCode; message: string } {
  if (thrown instanceof Fault) return { code: thrown.code, message: thrown.message }
  const { code = '', message = String(thrown) } = thrown as NodeJS.ErrnoException
  return { code: systemCodes[code] ?? 'internal', message }
}
