import { createConnection, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { Fault, type FaultCode, faultCodes } from '../../model/fault.ts'
import { type AnswerOf, answers, type BlockServer, type RequestName, type RequestOf } from './protocol.ts'

interface Waiting {
  resolve: (value: unknown) => void
  reject: (error: unknown) => void
}

/** The agent's end of the block server. A lost connection fails what was asked; ask again after connecting again. */
export async function connectBlockServer(options: { socket: string; signal: AbortSignal }): Promise<BlockServer> {
  const socket = await connect(options)
  const waiting = new Map<number, Waiting>()
  let next = 0
  let isGone = false
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  const gone = () => new Fault('unavailable', `the block server at ${options.socket} is gone`)
  socket
    .on('error', () => socket.destroy())
    .on('close', () => {
      isGone = true
      for (const { reject } of waiting.values()) reject(gone())
      waiting.clear()
    })
  const lines = createInterface({ input: socket })
  // It repeats what the socket says.
  lines.on('error', () => {})
  lines.on('line', (line) => {
    const { id, ok, fault } = JSON.parse(line) as {
      id: number
      ok?: unknown
      fault?: { code: string; message: string }
    }
    const asked = waiting.get(id)
    waiting.delete(id)
    if (fault) asked?.reject(new Fault(codeOf(fault.code), fault.message))
    else asked?.resolve(ok)
  })
  return {
    gone: closed,
    async ask<N extends RequestName>(name: N, request: RequestOf<N>, { signal }: { signal: AbortSignal }) {
      signal.throwIfAborted()
      if (isGone) throw gone()
      const id = next++
      const answer = Promise.withResolvers<unknown>()
      waiting.set(id, answer)
      const stop = () => {
        waiting.delete(id)
        answer.reject(signal.reason)
      }
      signal.addEventListener('abort', stop, { once: true })
      socket.write(`${JSON.stringify({ ...request, id, request: name })}\n`)
      try {
        return answers[name].parse(await answer.promise) as AnswerOf<N>
      } finally {
        signal.removeEventListener('abort', stop)
      }
    },
    async [Symbol.asyncDispose]() {
      socket.destroy()
      await closed
    },
  }
}

function connect({ socket: path, signal }: { socket: string; signal: AbortSignal }): Promise<Socket> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted()
    const socket = createConnection(path)
    const fail = (cause: unknown) => {
      socket.destroy()
      reject(signal.aborted ? signal.reason : new Fault('unavailable', `no block server answers at ${path}`, { cause }))
    }
    signal.addEventListener('abort', fail, { once: true })
    socket.once('error', fail).once('connect', () => {
      signal.removeEventListener('abort', fail)
      socket.off('error', fail)
      resolve(socket)
    })
  })
}

function codeOf(code: string): FaultCode {
  return (faultCodes as readonly string[]).includes(code) ? (code as FaultCode) : 'internal'
}
