import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { finished, pipeline } from 'node:stream/promises'
import type { z } from 'zod'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { faultLine } from '../../wire/answer.ts'
import type { StreamService } from '../../wire/link.ts'
import type {
  SandboxAttachStream,
  SandboxExecStream,
  SandboxFileStream,
  SandboxForwardStream,
  SandboxRequest,
  SandboxWatchStream,
} from '../../wire/sandbox.ts'
import { sandboxServices } from '../../wire/sandbox.ts'
import { carryExecution } from '../services/carry.ts'
import { Commands } from './commands.ts'
import type { SandboxOffer, SandboxParts } from './offer.ts'
import { answerRequest } from './requests.ts'

type Parts = SandboxParts & { commands: Commands }
type Served<Request> = (
  request: Request,
  stream: Duplex,
  parts: Parts,
  options: { signal: AbortSignal },
) => Promise<void>

/** What this agent serves about sandboxes on byte streams; each request is parsed before anything is done with it. */
export function sandboxStreamServices(
  offer: SandboxOffer,
  { clock }: { clock: Clock },
): Record<keyof typeof sandboxServices, StreamService> {
  const commands = new Commands(clock)
  const serve =
    <Name extends keyof typeof sandboxServices>(
      name: Name,
      service: Served<z.infer<(typeof sandboxServices)[Name]>>,
    ): StreamService =>
    async (request, stream, options) => {
      const result = sandboxServices[name].safeParse(request)
      if (result.success) {
        const parts = { ...(await offer.open()), commands }
        return service(result.data as z.infer<(typeof sandboxServices)[Name]>, stream, parts, options)
      }
      const [issue] = result.error.issues
      throw new Fault('invalid', `the request for ${name} is not valid: ${issue?.path.join('.')}: ${issue?.message}`)
    }
  return {
    sandbox: serve('sandbox', answer),
    sandboxExec: serve('sandboxExec', exec),
    sandboxAttach: serve('sandboxAttach', attach),
    sandboxFile: serve('sandboxFile', file),
    sandboxForward: serve('sandboxForward', forward),
    sandboxWatch: serve('sandboxWatch', watch),
    build: serve('build', (request, stream, { builder }, options) => builder.serve(request, stream, options)),
  }
}

/** One question, one line of JSON. */
async function answer(
  request: SandboxRequest,
  stream: Duplex,
  parts: Parts,
  options: { signal: AbortSignal },
): Promise<void> {
  stream.end(`${JSON.stringify(await answerRequest(parts, request, options))}\n`)
}

async function exec(
  { id, command, env, cwd, user, terminal, detached, stdin }: SandboxExecStream,
  stream: Duplex,
  { sandboxes, commands }: Parts,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const { channel, env: given } = await sandboxes.guest(id)
  await carryExecution(
    stream,
    async (options) => {
      const request = { command, env: { ...given, ...env }, cwd, user, terminal, detached }
      const started = await commands.start(channel, request, options)
      if (!stdin) started.stdin.end()
      return started
    },
    { signal },
  )
}

async function attach(
  { id, ...wanted }: SandboxAttachStream,
  stream: Duplex,
  { sandboxes, commands }: Parts,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const { channel } = await sandboxes.guest(id)
  await carryExecution(stream, (options) => commands.attach(channel, wanted, options), { signal })
}

async function file(
  request: SandboxFileStream,
  stream: Duplex,
  { sandboxes }: Parts,
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
  try {
    // A pipeline would break the stream off, on which it is still to be said what went wrong.
    stream.pipe(into)
    await finished(into, { signal })
    await into.written
    stream.end(`${JSON.stringify({ ok: true })}\n`)
  } catch (error) {
    into.destroy()
    if (stream.destroyed) throw error
    stream.end(faultLine(error))
  }
}

async function forward(
  { id, port }: SandboxForwardStream,
  stream: Duplex,
  { sandboxes }: Parts,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const { channel } = await sandboxes.guest(id)
  const inner = await channel.forward(port, { signal })
  await Promise.allSettled([pipeline(stream, inner, { signal }), pipeline(inner, stream, { signal })])
}

/** One JSON a line; a reader that falls behind slows the watch down, whose own buffer in the guest is bounded. */
async function watch(
  { id, path, recursive }: SandboxWatchStream,
  stream: Duplex,
  { sandboxes }: Parts,
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
