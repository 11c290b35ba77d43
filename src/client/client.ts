import type { z } from 'zod'
import type { EndpointName, Endpoints } from '../contract/endpoints.ts'
import { routes } from '../contract/routes.ts'
import { Fault } from '../model/fault.ts'
import { type ExecOptions, type Execution, openExecution } from './exec.ts'
import { KeptSockets } from './kept-sockets.ts'
import { type LogChunk, readLogs } from './logs.ts'
import { type NodeTransportOptions, nodeTransport } from './node-transport.ts'
import { expectStream, readJson, readText } from './read-reply.ts'
import type { Transport } from './transport.ts'
import { type Sleeper, type WatchEvent, watch } from './watch.ts'

/**
 * The API as functions, typed by the contract: what a function takes is what its endpoint's schemas take, what fails
 * rejects with the very Fault that the server threw. `client.getJob({ job: 'web' })`
 */
export type Client = Calls & Streams & AsyncDisposable & { readonly url: string }

type Calls = {
  [N in EndpointName as Endpoints[N] extends { stream: string } ? never : N]: (
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

export function createClient(options: ClientOptions): Client {
  const transport = 'transport' in options ? options.transport : nodeTransport(options)
  const names = Object.keys(routes) as EndpointName[]
  const calls = names
    .filter((name) => !('stream' in routes[name]))
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
    quietMs: callQuietMs,
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
