import { chmodSync, rmSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import type { Log } from '../../kit/log.ts'
import { Fault } from '../../model/fault.ts'
import { describeFault } from './call-worker.ts'
import { type AnswerOf, answers, type RequestName, type RequestOf, requests } from './protocol.ts'

export type Handlers = { [N in RequestName]: (request: z.output<(typeof requests)[N]>) => Promise<AnswerOf<N>> }

/** A request as it comes, before anybody knows what it asks. */
const Envelope = z.looseObject({ id: z.int(), request: z.enum(Object.keys(requests) as [RequestName]) })
/** A store request with its prefetch list; nothing is longer. */
const maximumLine = 16 * 1024 * 1024

/** Answers requests on a Unix socket, each when it is done. */
export async function serveRequests(options: {
  socket: string
  handlers: Handlers
  log: Log
}): Promise<AsyncDisposable> {
  const connections = new Set<Socket>()
  /** Requests that are being answered; whoever asked the server to stop still hears of it. */
  const underWay = new Set<Promise<void>>()
  const server = createServer((socket) => {
    connections.add(socket)
    socket.on('close', () => connections.delete(socket)).on('error', () => socket.destroy())
    answerAll(socket, options, underWay)
  })
  rmSync(options.socket, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(options.socket, resolve)
  })
  chmodSync(options.socket, 0o600)
  return {
    async [Symbol.asyncDispose]() {
      await Promise.all(underWay)
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of connections) socket.destroySoon()
      await closed
    },
  }
}

function answerAll(
  socket: Socket,
  { handlers, log }: { handlers: Handlers; log: Log },
  underWay: Set<Promise<void>>,
): void {
  let unread = 0
  socket.on('data', (piece: Buffer) => {
    unread = piece.includes(10) ? 0 : unread + piece.length
    if (unread > maximumLine) socket.destroy()
  })
  const lines = createInterface({ input: socket })
  // It repeats what the socket says.
  lines.on('error', () => {})
  lines.on('line', (line) => {
    const answering = answer(line, handlers)
      .then((text) => {
        if (socket.writable) socket.write(`${text}\n`)
      })
      .catch((error: unknown) => log.error({ err: error }, 'a request could not be answered'))
      .finally(() => underWay.delete(answering))
    underWay.add(answering)
  })
  const answer = async (line: string, known: Handlers): Promise<string> => {
    let id = -1
    try {
      const { id: given, request: name, ...fields } = Envelope.parse(JSON.parse(line))
      id = given
      const request = requests[name].parse(fields)
      const handle = known[name] as (request: RequestOf<RequestName>) => Promise<unknown>
      return JSON.stringify({ id, ok: answers[name].parse(await handle(request as RequestOf<RequestName>)) })
    } catch (thrown) {
      const fault = thrown instanceof z.ZodError ? new Fault('invalid', z.prettifyError(thrown)) : thrown
      const { code, message } = describeFault(fault)
      if (code === 'internal') log.error({ err: thrown }, 'a request failed')
      return JSON.stringify({ id, fault: { code, message } })
    }
  }
}
