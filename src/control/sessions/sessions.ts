import type { Duplex } from 'node:stream'
import { deadline } from '../../kit/clock.ts'
import { Queue } from '../../kit/queue.ts'
import { Fault, sentence } from '../../model/fault.ts'
import { NodeId } from '../../model/ids.ts'
import { labelsOf } from '../../model/node.ts'
import type { Commit } from '../../store/store.ts'
import type { AgentLink } from '../../wire/link.ts'
import { type AgentMessage, beatMs, leaseMs } from '../../wire/messages.ts'
import { beginSession, endSession, markInStep, updateFacts } from '../actions/node-session.ts'
import { noteReport } from '../actions/note-report.ts'
import type { Control } from '../control.ts'
import type { SandboxNews } from '../sandboxes/note.ts'
import { concernsAgent, Session } from './session.ts'

type Hello = Extract<AgentMessage, { type: 'hello' }>

/** Told what agents say of their sandboxes. */
type SandboxListener = (news: SandboxNews) => Promise<void>

/** A link that says nothing for this long at its beginning is closed. */
const helloWithinMs = 10_000
/** Messages of one agent that may wait to be taken in; one that says more than that is cut off. */
const inboxLimit = 10_000

/** All connected agents. Whatever is known here and not in the store is gone with a restart, and nothing misses it. */
export class Sessions {
  readonly #control: Control
  readonly #live = new Map<NodeId, Session>()
  /** When each session was last heard of, on the monotonic clock. */
  readonly #heard = new Map<Session, number>()
  readonly #serving = new Set<Promise<void>>()
  readonly #onSandboxes: SandboxListener

  constructor(control: Control, { onSandboxes = async () => {} }: { onSandboxes?: SandboxListener } = {}) {
    this.#control = control
    this.#onSandboxes = onSandboxes
    control.store.subscribe((commit) => this.#follow(commit))
  }

  get count(): number {
    return this.#live.size
  }

  /** Ms since the node's agent was last heard of; undefined without a session. */
  silence(node: NodeId): number | undefined {
    const session = this.#live.get(node)
    const heard = session && this.#heard.get(session)
    return heard === undefined ? undefined : this.#control.clock.monotonic() - heard
  }

  /** A byte stream to a service of the node's agent; a Fault `unavailable` when it is not connected. */
  async open(node: NodeId, service: string, request: unknown, options: { signal: AbortSignal }): Promise<Duplex> {
    const session = this.#live.get(node)
    if (session) return session.open(service, request, options)
    const name = this.#control.store.view.get('nodes', node)?.name ?? node
    throw new Fault(
      'unavailable',
      `node "${name}" is not connected right now; try again when "tutti nodes" shows it as ready`,
    )
  }

  /** Serves one agent until its link ends. Never throws. */
  async serve(link: AgentLink, { signal }: { signal: AbortSignal }): Promise<void> {
    const serving = this.#serve(link, signal).catch((error: unknown) => {
      this.#control.log.warn({ err: error, remote: link.remote }, 'an agent session ended in an error')
    })
    this.#serving.add(serving)
    await serving
    this.#serving.delete(serving)
  }

  /** Ends every session and waits until that is recorded. */
  async close(): Promise<void> {
    for (const session of this.#live.values()) session.close()
    await Promise.all(this.#serving)
  }

  /** Closes sessions that have been silent for a whole lease: the network may be gone without saying so. */
  closeSilent(): void {
    const now = this.#control.clock.monotonic()
    for (const [session, heard] of this.#heard) {
      if (now - heard < leaseMs) continue
      this.#control.log.warn({ node: session.node }, 'an agent fell silent; its session is closed')
      session.close()
    }
  }

  async #serve(link: AgentLink, signal: AbortSignal): Promise<void> {
    const { clock, log, store } = this.#control
    const inbox = new Queue<AgentMessage>({ limit: inboxLimit })
    void receive(link, inbox)
    const messages = inbox[Symbol.asyncIterator]()
    let session: Session | undefined
    try {
      const hello = await this.#hello(messages, signal)
      session = await this.#begin(link, hello, () => inbox.end())
      const node = store.view.get('nodes', session.node)
      const labels = node ? labelsOf(node) : {}
      await link.send({ type: 'welcome', epoch: session.epoch, now: clock.now(), beatMs, leaseMs, labels })
      session.resync()
      for (let next = await messages.next(); !next.done && !signal.aborted; next = await messages.next()) {
        this.#heard.set(session, clock.monotonic())
        await this.#take(session, next.value)
      }
    } catch (error) {
      const fault = Fault.from(error)
      const retryMs = fault.code === 'denied' || fault.code === 'conflict' ? 30_000 : 1000
      if (!session) await link.send({ type: 'goodbye', message: sentence(fault), retryMs }).catch(() => {})
      if (fault.code === 'internal') log.warn({ err: error, remote: link.remote }, 'an agent session broke off')
      else log.info({ node: link.peer.node, reason: sentence(fault) }, 'an agent was turned away or lost')
    } finally {
      void letGo(link)
      if (session) {
        const heard = this.#heard.get(session) ?? clock.monotonic()
        this.#heard.delete(session)
        if (this.#live.get(session.node) === session) this.#live.delete(session.node)
        const { node, epoch } = session
        await endSession(this.#control, node, epoch, { heardAgoMs: clock.monotonic() - heard }).catch(
          (error: unknown) => {
            // On the way down the store may be closed already; the start-up silences every node anyway.
            if (!signal.aborted)
              log.error({ err: error, node }, `the end of a session could not be recorded at index ${store.index}`)
          },
        )
      }
    }
  }

  async #hello(messages: AsyncIterator<AgentMessage>, signal: AbortSignal): Promise<Hello> {
    using limit = deadline(this.#control.clock, helloWithinMs, signal)
    const expired = Promise.withResolvers<never>()
    limit.signal.addEventListener(
      'abort',
      () => expired.reject(new Fault('invalid', 'the agent did not say hello in time')),
      { once: true },
    )
    const first = await Promise.race([messages.next(), expired.promise])
    if (first.done || first.value.type !== 'hello') throw new Fault('invalid', 'the agent did not begin with hello')
    return first.value
  }

  async #begin(link: AgentLink, hello: Hello, onClose: () => void): Promise<Session> {
    const node = NodeId.parse(hello.node)
    if (link.peer.node !== node) throw new Fault('denied', 'the certificate belongs to another node than the one named')
    const other = this.#live.get(node)
    if (other && other.instance !== hello.instance && (this.silence(node) ?? leaseMs) < 2 * beatMs) {
      throw new Fault(
        'conflict',
        `node "${hello.name}" is connected already, from ${other.link.remote}: two agents cannot share one identity, so give this one its own data directory and join it under another name`,
      )
    }
    other?.close()
    const row = await beginSession(this.#control, node, { ...hello, keyFingerprint: link.peer.keyFingerprint })
    const { store, log } = this.#control
    const session = new Session({
      node,
      epoch: row.epoch,
      instance: hello.instance,
      link,
      view: () => store.view,
      log,
      onClose,
    })
    this.#live.set(node, session)
    this.#heard.set(session, this.#control.clock.monotonic())
    return session
  }

  async #take(session: Session, message: AgentMessage): Promise<void> {
    switch (message.type) {
      case 'beat':
        return
      case 'report':
        this.#noteReport(session, message)
        return
      case 'taken':
        if (message.version === session.version) await markInStep(this.#control, session.node, session.epoch)
        return
      case 'facts':
        await updateFacts(this.#control, session.node, session.epoch, message.facts)
        return
      case 'resync':
        session.resync()
        return
      case 'sandboxes':
        this.#noteSandboxes(session, message)
        return
      case 'hello':
        throw new Fault('invalid', 'the agent said hello twice')
      default:
        message satisfies never
    }
  }

  /** Not waited for: reports of one session are written in the order they came, and answered once durable. */
  #noteReport(session: Session, { report, statuses, events }: Extract<AgentMessage, { type: 'report' }>): void {
    noteReport(this.#control, { node: session.node, epoch: session.epoch, statuses, events })
      .then(() => session.link.send({ type: 'noted', report }))
      .catch((error: unknown) =>
        this.#control.log.warn(
          { err: error, node: session.node },
          'a report could not be recorded; the agent will repeat it',
        ),
      )
  }

  /** Not waited for, but begun in the order in which they came; what is lost here is said again by the next session. */
  #noteSandboxes(
    { node, epoch }: Session,
    { type: _type, ...said }: Extract<AgentMessage, { type: 'sandboxes' }>,
  ): void {
    this.#onSandboxes({ node, epoch, ...said }).catch((error: unknown) =>
      this.#control.log.warn({ err: error, node }, 'what a node says of its sandboxes could not be recorded'),
    )
  }

  #follow(commit: Commit): void {
    for (const change of commit.changes) {
      if (change.table !== 'allocations') continue
      const { row, before } = change
      const subject = row ?? before
      const session = subject && this.#live.get(subject.node)
      if (session && concernsAgent(row, before)) session.note(subject.id, row?.phase === 'lost' ? undefined : row)
    }
  }
}

/** What the agent says, until its link ends. Read apart, so that a session can be closed while its link is stuck. */
async function receive(link: AgentLink, inbox: Queue<AgentMessage>): Promise<void> {
  try {
    for await (const message of link.messages) inbox.push(message)
    inbox.end()
  } catch (error) {
    inbox.end(error)
  }
}

/** The link may be stuck or broken; nobody waits for it. */
async function letGo(link: AgentLink): Promise<void> {
  try {
    await link[Symbol.asyncDispose]()
  } catch {
    // It is gone, which is what was wanted.
  }
}
