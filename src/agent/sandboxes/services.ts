import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { z } from 'zod'
import { Fault } from '../../model/fault.ts'
import type { Sandboxes } from '../../sandboxes/sandboxes.ts'
import type { StreamService } from '../../wire/link.ts'
import type {
  SandboxExecStream,
  SandboxFileStream,
  SandboxForwardStream,
  SandboxRequest,
  SandboxWatchStream,
} from '../../wire/sandbox.ts'
import { sandboxServices } from '../../wire/sandbox.ts'
import { carryExecution } from '../services/carry.ts'
import { answerRequest } from './requests.ts'
import type { TemplateBuilder } from './template-builder.ts'

export interface SandboxParts {
  sandboxes: Sandboxes
  builder: TemplateBuilder
}

type Served<Request> = (request: Request, stream: Duplex, options: { signal: AbortSignal }) => Promise<void>

/** What this agent serves about sandboxes on byte streams; each request is parsed before anything is done with it. */
export function sandboxStreamServices(parts: SandboxParts): Record<keyof typeof sandboxServices, StreamService> {
  const { sandboxes, builder } = parts
  return {
    sandbox: parsed('sandbox', (request, stream, options) => answer(request, stream, parts, options)),
    sandboxExec: parsed('sandboxExec', (request, stream, options) => exec(sandboxes, request, stream, options)),
    sandboxFile: parsed('sandboxFile', (request, stream, options) => file(sandboxes, request, stream, options)),
    sandboxForward: parsed('sandboxForward', (request, stream, options) =>
      forward(sandboxes, request, stream, options),
    ),
    sandboxWatch: parsed('sandboxWatch', (request, stream, options) => watch(sandboxes, request, stream, options)),
    build: parsed('build', (request, stream, options) => builder.serve(request, stream, options)),
  }
}

function parsed<Name extends keyof typeof sandboxServices>(
  name: Name,
  serve: Served<z.infer<(typeof sandboxServices)[Name]>>,
): StreamService {
  return async (request, stream, options) => {
    const result = sandboxServices[name].safeParse(request)
    if (result.success) return serve(result.data as z.infer<(typeof sandboxServices)[Name]>, stream, options)
    const [issue] = result.error.issues
    throw new Fault('invalid', `the request for ${name} is not valid: ${issue?.path.join('.')}: ${issue?.message}`)
  }
}

/** One question, one line of JSON. */
async function answer(
  request: SandboxRequest,
  stream: Duplex,
  { sandboxes, builder }: SandboxParts,
  options: { signal: AbortSignal },
): Promise<void> {
  stream.end(`${JSON.stringify(await answerRequest(sandboxes, builder, request, options))}\n`)
}

async function exec(
  sandboxes: Sandboxes,
  { id, command, env, cwd, user, terminal, detached }: SandboxExecStream,
  stream: Duplex,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const { channel, env: given } = await sandboxes.guest(id)
  await carryExecution(
    stream,
    (options) => channel.start({ command, env: { ...given, ...env }, cwd, user, terminal, detached }, options),
    { signal },
  )
}

async function file(
  sandboxes: Sandboxes,
  request: SandboxFileStream,
  stream: Duplex,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const { files } = (await sandboxes.guest(request.id)).channel
  if (request.op === 'read') {
    const { path, offset, length } = request
    const bytes = await files.read(path, {
      signal,
      ...(offset === undefined ? {} : { offset }),
      ...(length === undefined ? {} : { length }),
    })
    // Nothing is expected, but the end of the other side is to be seen.
    stream.resume()
    await pipeline(bytes, stream, { signal })
    return
  }
  const { path, mode, user } = request
  const into = await files.write(path, {
    signal,
    ...(mode === undefined ? {} : { mode }),
    ...(user === undefined ? {} : { user }),
  })
  await pipeline(stream, into, { signal, end: true }).catch((error: unknown) => {
    into.destroy()
    throw error
  })
  await into.written
  stream.end(`${JSON.stringify({ ok: true })}\n`)
}

async function forward(
  sandboxes: Sandboxes,
  { id, port }: SandboxForwardStream,
  stream: Duplex,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const { channel } = await sandboxes.guest(id)
  const inner = await channel.forward(port, { signal })
  await Promise.allSettled([pipeline(stream, inner, { signal }), pipeline(inner, stream, { signal })])
}

/** One JSON a line; a reader that falls behind slows the watch down, whose own buffer in the guest is bounded. */
async function watch(
  sandboxes: Sandboxes,
  { id, path, recursive }: SandboxWatchStream,
  stream: Duplex,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const { files } = (await sandboxes.guest(id)).channel
  const over = new AbortController()
  const either = AbortSignal.any([signal, over.signal])
  const events = await files.watch(path, { recursive, signal: either })
  stream.resume()
  stream.once('close', () => over.abort(new Fault('unavailable', 'the stream was given up')))
  stream.on('error', () => {})
  stream.write('')
  try {
    for await (const event of events) {
      if (stream.destroyed) return
      if (!stream.write(`${JSON.stringify(event)}\n`))
        await Promise.race([once(stream, 'drain'), once(stream, 'close')]).catch(() => {})
    }
  } catch (error) {
    if (!either.aborted) throw error
  }
}
