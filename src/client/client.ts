import type { Duplex, Readable } from 'node:stream'
import type { z } from 'zod'
import type { PublicBuildLine } from '../contract/build.ts'
import type { EndpointName, Endpoints } from '../contract/endpoints.ts'
import { routes } from '../contract/routes.ts'
import { Fault } from '../model/fault.ts'
import type { FileEvent } from '../model/guest.ts'
import { readBuildLog } from './build-log.ts'
import {
  type ExecOptions,
  type Execution,
  openExecution,
  type SandboxAttachOptions,
  type SandboxExecOptions,
} from './exec.ts'
import { openForward } from './forward.ts'
import { KeptSockets } from './kept-sockets.ts'
import { type LogChunk, readLogs } from './logs.ts'
import { type NodeTransportOptions, nodeTransport } from './node-transport.ts'
import { expectStream, readJson, readText } from './read-reply.ts'
import type { Transport } from './transport.ts'
import { type Sleeper, type WatchEvent, watch } from './watch.ts'
import { watchFiles } from './watch-files.ts'

/**
 * The API as functions, typed by the contract: what a function takes is what its endpoint's schemas take, what fails
 * rejects with the very Fault that the server threw. `client.getJob({ job: 'web' })`
 */
export type Client = Calls & Streams & AsyncDisposable & { readonly url: string }

type Calls = {
  [N in EndpointName as Endpoints[N] extends { stream: string } | { upload: true } ? never : N]: (
    ...args: Arguments<Input<N>>
  ) => Promise<Answer<N>>
}

interface Streams {
  /** Output as it comes, until the end or, with `follow`, until the task has ended. */
  logs(input: Input<'allocationLogs'>, options?: CallOptions): AsyncIterable<LogChunk>
  /** A snapshot, then every change, for ever: lost connections are made again without a gap. */
  watch(input: Input<'watch'>, options?: CallOptions): AsyncIterable<WatchEvent>
  /** Runs a command in a task. Aborting `signal` kills it. */
  exec(input: Input<'execAllocation'>, request: ExecOptions, options?: CallOptions): Promise<Execution>
  metrics(options?: CallOptions): Promise<string>
  /** Runs a command in a sandbox. Aborting `signal` kills it, unless it is detached. */
  execSandbox(input: Input<'execSandbox'>, request: SandboxExecOptions, options?: CallOptions): Promise<Execution>
  /** Joins a command in a sandbox again. Aborting `signal` lets go of it. */
  attachSandbox(input: Input<'attachSandbox'>, request: SandboxAttachOptions, options?: CallOptions): Promise<Execution>
  /** A connection to a TCP port of a sandbox. */
  forwardSandbox(input: Input<'forwardSandbox'>, options?: CallOptions): Promise<Duplex>
  sandboxConsole(input: Input<'sandboxConsole'>, options?: CallOptions): Promise<string>
  readSandboxFile(input: Input<'readSandboxFile'>, options?: CallOptions): Promise<Readable>
  writeSandboxFile(input: Input<'writeSandboxFile'>, content: Readable, options?: CallOptions): Promise<void>
  watchSandboxFiles(
    input: Input<'watchSandboxFiles'>,
    options?: CallOptions,
  ): AsyncIterable<FileEvent | { kind: 'ready' }>
  buildLogs(input: Input<'buildLogs'>, options?: CallOptions): AsyncIterable<PublicBuildLine>
  /** A tar archive. */
  sendBuildContext(
    input: Input<'sendBuildContext'>,
    context: Readable,
    options?: CallOptions,
  ): Promise<Answer<'sendBuildContext'>>
}

/** Path parameters, query and `body` of an endpoint, side by side. */
export type Input<N extends EndpointName> = Part<Endpoints[N], 'params'> &
  Part<Endpoints[N], 'query'> &
  (Endpoints[N] extends { body: z.ZodType } ? { body: z.input<Endpoints[N]['body']> } : unknown)
type Part<E, K extends 'params' | 'query'> = E extends { [P in K]: z.ZodObject } ? z.input<E[K]> : unknown
export type Answer<N extends EndpointName> = Endpoints[N] extends { answer: z.ZodType }
  ? z.output<Endpoints[N]['answer']>
  : undefined
type Arguments<I> = unknown extends I
  ? [input?: Record<string, never>, options?: CallOptions]
  : Partial<I> extends I
    ? [input?: I, options?: CallOptions]
    : [input: I, options?: CallOptions]

export interface CallOptions {
  signal?: AbortSignal | undefined
}

export type ClientOptions = (NodeTransportOptions | { transport: Transport }) & {
  /** For the pauses between attempts to connect a watch again. */
  clock: Sleeper
  /**
   * How to load the schemas that answers are checked against, such as `() => import('../contract/endpoints.ts')`.
   * Without it answers are taken as they come, from a server that has proved who it is.
   */
  schemas?: (() => Promise<{ endpoints: Endpoints }>) | undefined
}

/** An answer must begin, and go on, within this. */
const callQuietMs = 60_000
/** What is answered when a machine has done something large. */
const slow: ReadonlySet<EndpointName> = new Set<EndpointName>([
  'createSandbox',
  'pauseSandbox',
  'resumeSandbox',
  'forkSandbox',
  'snapshotSandbox',
])
const slowQuietMs = 900_000

export function createClient(options: ClientOptions): Client {
  const transport = 'transport' in options ? options.transport : nodeTransport(options)
  const names = Object.keys(routes) as EndpointName[]
  const calls = names
    .filter((name) => !('stream' in routes[name]) && !('upload' in routes[name]))
    .map((name) => [name, (input?: Values, call?: CallOptions) => callOne(transport, options, name, input, call)])
  const sockets = new KeptSockets(transport)
  const streams: Streams = {
    logs: (input, call) => readLogs(transport, pathOf('allocationLogs', input), input.stream ?? 'both', call),
    watch: (input, call) => watch(transport, options.clock, (from) => pathOf('watch', { ...input, from }), call),
    exec: (input, request, call) => openExecution(sockets, pathOf('execAllocation', input), request, call),
    metrics: async (call) => {
      const reply = await transport.request({
        method: 'GET',
        path: routes.metrics.path,
        quietMs: callQuietMs,
        signal: call?.signal,
      })
      return readText(await expectStream(reply))
    },
    execSandbox: (input, request, call) => openExecution(sockets, pathOf('execSandbox', input), request, call),
    attachSandbox: (input, request, call) => openExecution(sockets, pathOf('attachSandbox', input), request, call),
    forwardSandbox: (input, call) => openForward(transport, pathOf('forwardSandbox', input), call),
    sandboxConsole: async (input, call) => readText(await bytes(transport, 'sandboxConsole', input, call)),
    readSandboxFile: (input, call) => bytes(transport, 'readSandboxFile', input, call),
    writeSandboxFile: async (input, content, call) => {
      await upload(transport, 'writeSandboxFile', input, content, call)
    },
    watchSandboxFiles: (input, call) => watchFiles(transport, pathOf('watchSandboxFiles', input), call),
    buildLogs: (input, call) => readBuildLog(transport, pathOf('buildLogs', input), call),
    sendBuildContext: (input, context, call) =>
      // As with every answer, from a server that has proved who it is.
      upload(transport, 'sendBuildContext', input, context, call) as Promise<Answer<'sendBuildContext'>>,
  }
  // The mapped type above says what these are; building them from the table is what makes that true.
  return Object.assign(Object.fromEntries(calls), streams, {
    url: transport.url,
    [Symbol.asyncDispose]: async () => {
      sockets[Symbol.dispose]()
      await transport[Symbol.asyncDispose]()
    },
  }) as Client
}

type Values = Record<string, unknown>

async function bytes(
  transport: Transport,
  name: EndpointName,
  input: Values,
  { signal }: CallOptions = {},
): Promise<Readable> {
  const path = pathOf(name, input)
  return expectStream(await transport.request({ method: 'GET', path, quietMs: callQuietMs, signal }))
}

/** How long it takes depends on who sends, so only the network's own limits apply. */
async function upload(
  transport: Transport,
  name: EndpointName,
  input: Values,
  content: Readable,
  { signal }: CallOptions = {},
): Promise<unknown> {
  const { method } = routes[name]
  return readJson(
    await transport.request({ method, path: pathOf(name, input), upload: content, quietMs: slowQuietMs, signal }),
  )
}

async function callOne(
  transport: Transport,
  { schemas }: ClientOptions,
  name: EndpointName,
  input: Values = {},
  { signal }: CallOptions = {},
): Promise<unknown> {
  const { body } = input
  const reply = await transport.request({
    method: routes[name].method,
    path: pathOf(name, input),
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    quietMs: slow.has(name) ? slowQuietMs : callQuietMs,
    signal,
  })
  const value = await readJson(reply)
  if (!schemas) return value
  const { endpoints } = await schemas()
  const { answer } = endpoints[name] as { answer?: z.ZodType }
  const checked = answer?.safeParse(value)
  if (!checked) return undefined
  if (checked.success) return checked.data
  throw new Fault(
    'unavailable',
    `the answer to ${name} is not what this version expects; are both ends the same version?`,
    {
      cause: checked.error,
    },
  )
}

/** Fills `:name`s in and makes the rest the query. */
function pathOf(name: EndpointName, input: Values): string {
  const query = new URLSearchParams()
  let path: string = routes[name].path
  for (const [key, value] of Object.entries(input)) {
    if (key === 'body' || value === undefined) continue
    const filled = path.replace(new RegExp(`:${key}(?=/|$)`), encodeURIComponent(String(value)))
    if (filled === path) query.set(key, String(value))
    path = filled
  }
  return query.size > 0 ? `${path}?${query}` : path
}
