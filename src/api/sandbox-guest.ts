import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { WebSocket } from 'ws'
import { z } from 'zod'
import { SandboxAttachRequest, SandboxExecRequest } from '../contract/sandbox.ts'
import type { Control } from '../control/control.ts'
import { findSandbox } from '../control/find.ts'
import { askIn, openIn, readConsole } from '../control/sandboxes/access.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import {
  EventAnswer,
  OctetAnswer,
  type ParsedRequest,
  type ServerSentEvent,
  type SocketHandler,
} from '../http/route.ts'
import { Fault, faultCodes } from '../model/fault.ts'
import { FileEvent } from '../model/guest.ts'
import type { SandboxId } from '../model/ids.ts'
import { parseLine, readLines } from '../wire/lines.ts'
import { recordAccess } from './access.ts'
import { serveExec } from './exec.ts'
import type { Handlers } from './handlers.ts'
import { relayBytes } from './relay-bytes.ts'

type GuestHandlers = Pick<
  Handlers,
  | 'sandboxMetrics'
  | 'sandboxProcesses'
  | 'signalSandboxProcess'
  | 'writeSandboxInput'
  | 'sandboxConsole'
  | 'readSandboxFile'
  | 'writeSandboxFile'
  | 'removeSandboxFile'
  | 'statSandboxFile'
  | 'listSandboxFiles'
  | 'makeSandboxDirectory'
  | 'moveSandboxFile'
  | 'watchSandboxFiles'
>

interface Options {
  control: Control
  sandboxes: SandboxControl
}

type Request = Pick<ParsedRequest, 'caller' | 'signal'> & { params: { sandbox: string } }

export function sandboxGuestHandlers({ control, sandboxes: { desk } }: Options): GuestHandlers {
  const idOf = ({ params }: Request) => findSandbox(control.store.view, params.sandbox).id
  const askedBy = ({ caller, signal }: Request) => ({ by: caller.name, signal })
  const record = (request: Request, id: SandboxId, action: string, subject: string) =>
    recordAccess(control, { by: request.caller.name, action: `sandbox.${action}`, subject: `${id} ${subject}`.trim() })
  return {
    sandboxMetrics: async (request) => ({
      metrics: await askIn(desk, idOf(request), 'metrics', {}, askedBy(request)),
    }),
    sandboxProcesses: (request) => askIn(desk, idOf(request), 'processes', {}, askedBy(request)),
    signalSandboxProcess: async (request) => {
      const id = idOf(request)
      const { pid } = request.params
      record(request, id, 'signal', `${pid} ${request.body.signal}`)
      await askIn(desk, id, 'signal', { pid, signal: request.body.signal }, askedBy(request))
      return {}
    },
    writeSandboxInput: async (request) => {
      const id = idOf(request)
      const { pid } = request.params
      record(request, id, 'input', String(pid))
      await askIn(desk, id, 'input', { pid, ...inputOf(request.body) }, askedBy(request))
      return {}
    },
    sandboxConsole: async (request) =>
      new OctetAnswer(
        Readable.from([await readConsole(desk, idOf(request), askedBy(request))]),
        'text/plain; charset=utf-8',
      ),
    readSandboxFile: async (request) => {
      const ask = { op: 'read', ...request.query }
      const stream = await openIn(desk, idOf(request), 'sandboxFile', ask, askedBy(request))
      stream.end()
      return new OctetAnswer(stream)
    },
    writeSandboxFile: async (request) => {
      const id = idOf(request)
      record(request, id, 'write', request.query.path)
      const stream = await openIn(desk, id, 'sandboxFile', { op: 'write', ...request.query }, askedBy(request))
      const answered = text(stream).then(throwIfFault)
      answered.catch(() => {})
      // Once it is refused, such as because the disk is full, nobody waits for the rest of it.
      await Promise.race([pipeline(request.raw, stream), answered])
      await answered
      return {}
    },
    removeSandboxFile: async (request) => {
      const id = idOf(request)
      record(request, id, 'remove', request.query.path)
      await askIn(desk, id, 'remove', request.query, askedBy(request))
    },
    statSandboxFile: async (request) => ({
      entry: await askIn(desk, idOf(request), 'stat', request.query, askedBy(request)),
    }),
    listSandboxFiles: (request) => askIn(desk, idOf(request), 'list', request.query, askedBy(request)),
    makeSandboxDirectory: async (request) => {
      await askIn(desk, idOf(request), 'mkdir', request.body, askedBy(request))
    },
    moveSandboxFile: async (request) => {
      const id = idOf(request)
      record(request, id, 'move', request.body.path)
      await askIn(desk, id, 'move', request.body, askedBy(request))
    },
    watchSandboxFiles: async (request) => {
      const stream = await openIn(desk, idOf(request), 'sandboxWatch', request.query, askedBy(request))
      stream.end()
      return new EventAnswer(fileEvents(stream))
    },
  }
}

/** The exec WebSocket of a sandbox. */
export function sandboxExecSocket({ control, sandboxes: { desk } }: Options): SocketHandler {
  return (request, socket) =>
    serveExec(request, socket, {
      clock: control.clock,
      schema: SandboxExecRequest,
      open: async ({ command, stdin, ...rest }, caller) => {
        const { id } = findSandbox(control.store.view, (request.params as { sandbox: string }).sandbox)
        const words = typeof command === 'string' ? ['/bin/sh', '-c', command] : command
        recordAccess(control, { by: caller.name, action: 'sandbox.exec', subject: id })
        // Agents of before it could be said know nothing of it.
        const ask = { ...rest, command: words, ...(stdin ? {} : { stdin }) }
        return openIn(desk, id, 'sandboxExec', ask, { by: caller.name, signal: request.signal })
      },
    })
}

/** As that of exec, for a command that runs already. */
export function sandboxAttachSocket({ control, sandboxes: { desk } }: Options): SocketHandler {
  return (request, socket) =>
    serveExec(request, socket, {
      clock: control.clock,
      schema: SandboxAttachRequest,
      open: async (wanted, caller) => {
        const { id } = findSandbox(control.store.view, (request.params as { sandbox: string }).sandbox)
        recordAccess(control, { by: caller.name, action: 'sandbox.attach', subject: `${id} ${wanted.pid}` })
        return openIn(desk, id, 'sandboxAttach', wanted, { by: caller.name, signal: request.signal })
      },
    })
}

/** A port of the guest: `{"ok":true}`, then bytes both ways. */
export function sandboxForwardSocket({ control, sandboxes: { desk } }: Options): SocketHandler {
  return async ({ params, query, signal, caller }, socket) => {
    socket.pause()
    const { id } = findSandbox(control.store.view, (params as { sandbox: string }).sandbox)
    const { port } = query as { port: number }
    recordAccess(control, { by: caller.name, action: 'sandbox.forward', subject: `${id} ${port}` })
    const stream = await openIn(desk, id, 'sandboxForward', { port }, { by: caller.name, signal })
    if (socket.readyState !== WebSocket.OPEN) return void stream.destroy()
    socket.send(JSON.stringify({ ok: true }))
    const over = relayBytes(socket, stream)
    socket.resume()
    await over
  }
}

function inputOf({ data, encoding, end }: { data: string; encoding: 'utf8' | 'base64'; end: boolean }) {
  const isBase64 = encoding === 'utf8' || z.base64().safeParse(data).success
  if (!isBase64) throw new Fault('invalid', 'the input is not base64, which its "encoding" says that it is')
  return { data: encoding === 'utf8' ? Buffer.from(data).toString('base64') : data, end }
}

const maxLineBytes = 64 * 1024

async function* fileEvents(stream: Readable): AsyncGenerator<ServerSentEvent> {
  yield { event: 'ready', data: {} }
  for await (const line of readLines(stream, maxLineBytes)) {
    const event = FileEvent.safeParse(parseLine(line, 'what the node says of a file'))
    if (event.success) yield { event: 'change', data: event.data }
  }
}

const Refused = z.object({ fault: z.object({ code: z.enum(faultCodes), message: z.string().max(10_000) }) })

function throwIfFault(line: string): void {
  const refused = line.trim() === '' ? undefined : Refused.safeParse(parseLine(line, 'what the node answered'))
  if (refused?.success) throw new Fault(refused.data.fault.code, refused.data.fault.message)
}
