import { type Clock, deadline } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import { Queue } from '../kit/queue.ts'
import { Fault } from '../model/fault.ts'
import type { NodeFacts } from '../model/node.ts'
import type { ControlLink } from '../wire/link.ts'
import type { AgentMessage, ControlMessage } from '../wire/messages.ts'
import type { Allocations } from './allocations.ts'
import type { Reporter } from './reporter.ts'
import type { SandboxOffer } from './sandboxes/offer.ts'
import { reportSandboxes } from './sandboxes/report.ts'

export interface SessionOptions {
  link: ControlLink
  hello: Omit<Extract<AgentMessage, { type: 'hello' }>, 'type'>
  clock: Clock
  log: Log
  allocations: Allocations
  reporter: Reporter
  /** Undefined where the node has none. */
  sandboxes: SandboxOffer | undefined
  /** The control plane's word on the node's labels. */
  relabel: (labels: Readonly<Record<string, string>>) => void
  /** Yields the facts each time they have changed. */
  changedFacts: (options: { signal: AbortSignal }) => AsyncIterable<NodeFacts>
  signal: AbortSignal
}

export type SessionEnd =
  | { how: 'goodbye'; message: string; retryMs: number }
  | { how: 'lost'; welcomed: boolean; error: unknown }

/**
 * One conversation with the control plane, from hello until either side ends it. It only carries: what is assigned
 * goes to the allocations, what happens comes from the reporter, and neither cares whether a session lives.
 */
export async function converse(options: SessionOptions): Promise<SessionEnd> {
  const { link, clock, reporter, allocations } = options
  const over = new AbortController()
  const signal = AbortSignal.any([options.signal, over.signal])
  let welcomed = false
  let failure: unknown
  const background: Promise<void>[] = []
  const besides = (work: Promise<void>) => {
    background.push(
      work.catch(async (error: unknown) => {
        if (signal.aborted) return
        failure ??= error
        over.abort(error)
      }),
    )
  }
  try {
    await link.send({ type: 'hello', ...options.hello })
    for await (const message of inTime(link.messages, () => welcomed, { clock, signal })) {
      if (message.type === 'goodbye') return { how: 'goodbye', message: message.message, retryMs: message.retryMs }
      if (message.type === 'welcome') {
        if (welcomed) throw new Fault('invalid', 'the control plane said welcome twice')
        welcomed = true
        if (message.labels) options.relabel(message.labels)
        besides(beat(link, message.beatMs, { clock, signal }))
        besides(reporter.run((report) => link.send(report), { signal }))
        besides(tellFacts(options, signal))
        const { sandboxes } = options
        if (sandboxes) besides(reportSandboxes(sandboxes, (news) => link.send(news), { clock, signal }))
      } else await take(message, { link, allocations, reporter })
    }
    return { how: 'lost', welcomed, error: failure ?? new Fault('unavailable', 'the control plane ended the session') }
  } catch (error) {
    return { how: 'lost', welcomed, error: failure ?? error }
  } finally {
    over.abort(new Fault('unavailable', 'the session is over'))
    await Promise.all(background)
    reporter.repeat()
  }
}

async function take(
  message: Exclude<ControlMessage, { type: 'welcome' | 'goodbye' }>,
  { link, allocations, reporter }: Pick<SessionOptions, 'link' | 'allocations' | 'reporter'>,
): Promise<void> {
  switch (message.type) {
    case 'noted':
      reporter.noted(message.report)
      return
    case 'full':
      await allocations.applyFull(message)
      await link.send({ type: 'taken', version: message.version })
      return
    case 'delta':
      if (await allocations.applyDelta(message)) await link.send({ type: 'taken', version: message.version })
      else await link.send({ type: 'resync' })
      return
    default:
      message satisfies never
  }
}

async function beat(
  link: ControlLink,
  everyMs: number,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<void> {
  while (!signal.aborted) {
    await link.send({ type: 'beat' })
    await clock.sleep(everyMs, { signal })
  }
}

async function tellFacts({ link, changedFacts }: SessionOptions, signal: AbortSignal): Promise<void> {
  for await (const facts of changedFacts({ signal })) await link.send({ type: 'facts', facts })
}

/** How long the control plane may take to answer a hello. */
const welcomeMs = 15_000

/** What the control plane says that is not yet taken in; one that says more at once is cut off. */
const inboxLimit = 10_000

/**
 * The messages until the signal fires; throws when the first does not come in time. They are read apart, so that a
 * session can be ended while its link is stuck, and by a queue: a promise raced anew with each message would keep
 * something of every message for as long as the session lives.
 */
async function* inTime<T>(
  messages: AsyncIterable<T>,
  begun: () => boolean,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): AsyncGenerator<T> {
  using limit = deadline(clock, welcomeMs)
  const inbox = new Queue<T>({ limit: inboxLimit })
  const late = () => {
    if (!begun()) inbox.end(new Fault('unavailable', `the control plane did not answer within ${welcomeMs / 1000} s`))
  }
  const end = () => inbox.end(signal.reason)
  limit.signal.addEventListener('abort', late)
  signal.addEventListener('abort', end)
  if (signal.aborted) end()
  void receive(messages, inbox)
  try {
    for await (const message of inbox) {
      signal.throwIfAborted()
      yield message
    }
  } finally {
    signal.removeEventListener('abort', end)
  }
}

/** Reads until the link ends, which is hung up after the session. */
async function receive<T>(messages: AsyncIterable<T>, inbox: Queue<T>): Promise<void> {
  try {
    for await (const message of messages) inbox.push(message)
    inbox.end()
  } catch (error) {
    inbox.end(error)
  }
}
