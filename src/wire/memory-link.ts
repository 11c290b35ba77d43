import { createHash } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { finished } from 'node:stream/promises'
import type { Clock } from '../kit/clock.ts'
import type { Random } from '../kit/random.ts'
import { Fault } from '../model/fault.ts'
import type { NodeId } from '../model/ids.ts'
import { checkAnswer, faultLine, okLine } from './answer.ts'
import type { AgentLink, ControlLink, StreamService } from './link.ts'
import { type End, Lane, type Line } from './memory-lane.ts'
import { memoryStream } from './memory-stream.ts'
import { MemoryTalk } from './memory-talk.ts'
import { AgentMessage, ControlMessage, leaseMs } from './messages.ts'

/**
 * A network in memory, for simulating thousands of agents in virtual time: the same two interfaces as the real one,
 * carried by queues, with no socket and no timer but the given clock's. Everything said is written as JSON and checked
 * on arrival as on the real wire, so no object is ever shared between the ends.
 *
 * A line can be slow, `cut` (nothing passes and nobody is told, as with a pulled cable) and healed, or `reset` (both
 * ends are told at once, as when a process dies).
 */
export function memoryNetwork(options: NetworkOptions): MemoryNetwork {
  return new Network(options)
}

export interface MemoryNetwork {
  /** What an agent does: rejects with `unavailable` while no control plane is there or the line is cut. */
  dial(node: NodeId, options: MemoryDialOptions): Promise<ControlLink>
  /** The control plane comes up; the returned function is its crash. */
  onAgent(receive: (link: AgentLink) => void | Promise<void>): () => void
  /** From now on everything on this node's line takes this long, plus up to `jitterMs`. */
  delay(node: NodeId, delayMs: number, jitterMs?: number): void
  cut(node: NodeId): void
  heal(node: NodeId): void
  /** Ends the node's connections at once; it may dial again at once, too. */
  reset(node: NodeId): void
}

export interface NetworkOptions {
  clock: Clock
  random: Random
}

export interface MemoryDialOptions {
  services: Readonly<Record<string, StreamService>>
  keyFingerprint?: string
  signal: AbortSignal
}

/** How long a dialler waits for a line that is cut. */
const dialPatienceMs = 10_000

class Network implements MemoryNetwork {
  readonly #clock: Clock
  readonly #random: Random
  readonly #lines = new Map<NodeId, NodeLine>()
  #receive: ((link: AgentLink) => void | Promise<void>) | undefined

  constructor({ clock, random }: NetworkOptions) {
    this.#clock = clock
    this.#random = random
  }

  async dial(node: NodeId, { services, keyFingerprint, signal }: MemoryDialOptions): Promise<ControlLink> {
    signal.throwIfAborted()
    const line = this.#line(node)
    const delayMs = line.isCut ? dialPatienceMs : line.delayMs()
    if (delayMs > 0) await this.#clock.sleep(delayMs, { signal })
    const receive = this.#receive
    if (line.isCut) throw new Fault('unavailable', 'the control plane did not answer in time')
    if (!receive) throw new Fault('unavailable', 'nothing listens where the control plane should be')
    const connection = new Connection({ line, clock: this.#clock, services })
    const key = keyFingerprint ?? createHash('sha256').update(node).digest('hex')
    const link = connection.agentLink({ node, keyFingerprint: key })
    void (async () => receive(link))().catch(() => connection.lose())
    return connection.controlLink()
  }

  onAgent(receive: (link: AgentLink) => void | Promise<void>): () => void {
    this.#receive = receive
    return () => {
      if (this.#receive !== receive) return
      this.#receive = undefined
      for (const line of this.#lines.values()) line.reset()
    }
  }

  delay(node: NodeId, delayMs: number, jitterMs = 0): void {
    this.#line(node).delayMs = () => delayMs + jitterMs * this.#random.fraction()
  }

  cut(node: NodeId): void {
    const line = this.#line(node)
    if (line.isCut) return
    line.isCut = true
    // The agent pings, and takes a control plane that is silent for a lease for dead.
    const cutAt = ++line.cuts
    this.#clock.sleep(leaseMs).then(
      () => line.isCut && line.cuts === cutAt && line.giveUp(),
      () => {},
    )
  }

  heal(node: NodeId): void {
    this.#line(node).heal()
  }

  reset(node: NodeId): void {
    this.#line(node).reset()
  }

  #line(node: NodeId): NodeLine {
    const known = this.#lines.get(node)
    if (known) return known
    const line = new NodeLine()
    this.#lines.set(node, line)
    return line
  }
}

class NodeLine implements Line {
  isCut = false
  cuts = 0
  delayMs: () => number = () => 0
  readonly connections = new Set<Connection>()

  /** The agent's ends notice; the other ends are told when the line is whole again. */
  giveUp(): void {
    for (const connection of this.connections) connection.lose('agent')
  }

  heal(): void {
    this.isCut = false
    for (const connection of this.connections) connection.heal()
  }

  reset(): void {
    for (const connection of this.connections) connection.lose()
  }
}

type Side = 'agent' | 'control'

class Connection {
  readonly #line: NodeLine
  readonly #clock: Clock
  readonly #services: Readonly<Record<string, StreamService>>
  readonly #ends: Record<Side, End> = { agent: { lost: undefined }, control: { lost: undefined } }
  /** Lanes in use, and how many of their two ends are. */
  readonly #lanes = new Map<Lane, number>()
  readonly #serviceLanes = new Set<Lane>()
  readonly #toAgent: Lane
  readonly #toControl: Lane
  #isClosed = false

  constructor({ line, clock, services }: ConnectionOptions) {
    this.#line = line
    this.#clock = clock
    this.#services = services
    this.#toAgent = this.#lane('control', 'agent')
    this.#toControl = this.#lane('agent', 'control')
    line.connections.add(this)
  }

  /** One end, or both, notice that the connection is no more. */
  lose(side?: Side): void {
    const lost = new Fault('unavailable', 'the connection was lost')
    if (side !== 'control') this.#ends.agent.lost ??= lost
    if (side !== 'agent') this.#ends.control.lost ??= lost
    for (const lane of [...this.#lanes.keys()]) lane.poke()
  }

  heal(): void {
    for (const lane of [...this.#lanes.keys()]) lane.poke()
  }

  agentLink(peer: AgentLink['peer']): AgentLink {
    const talk = new MemoryTalk<AgentMessage, ControlMessage>({
      outgoing: this.#toAgent,
      incoming: this.#toControl,
      schema: AgentMessage,
      peer: `node ${peer.node}`,
      lost: lostStream,
      onOver: () => this.#over('control'),
    })
    return {
      peer,
      remote: `memory:${peer.node}`,
      messages: talk.messages,
      send: (message) => talk.send(message),
      open: (service, request, { signal }) => this.#open(service, request, signal),
      [Symbol.asyncDispose]: async () => talk.close(),
    }
  }

  controlLink(): ControlLink {
    const talk = new MemoryTalk<ControlMessage, AgentMessage>({
      outgoing: this.#toControl,
      incoming: this.#toAgent,
      schema: ControlMessage,
      peer: 'the control plane',
      lost: lostStream,
      onOver: () => this.#over('agent'),
    })
    return {
      messages: talk.messages,
      send: (message) => talk.send(message),
      [Symbol.asyncDispose]: async () => talk.close(),
    }
  }

  async #open(service: string, request: unknown, signal: AbortSignal): Promise<Duplex> {
    signal.throwIfAborted()
    if (this.#isClosed || this.#ends.control.lost) throw lostStream()
    const there = this.#lane('control', 'agent')
    const back = this.#lane('agent', 'control')
    this.#serviceLanes.add(there).add(back)
    const abort = () => {
      there.reset('from', lostStream())
      back.reset('to', lostStream())
    }
    signal.addEventListener('abort', abort, { once: true })
    try {
      await there.send(Buffer.from(JSON.stringify(request) ?? 'null'))
      void this.#serve(service, there, back)
      const answer = await back.take()
      if (answer === undefined) throw lostStream()
      checkAnswer(answer.toString().trimEnd(), service)
    } catch (error) {
      abort()
      this.#release(there)
      this.#release(back)
      throw signal.aborted ? signal.reason : error
    } finally {
      signal.removeEventListener('abort', abort)
    }
    const stream = this.#stream({ outgoing: there, incoming: back })
    const stop = () => {
      stream.destroy(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
    }
    if (signal.aborted) stop()
    signal.addEventListener('abort', stop, { once: true })
    stream.once('close', () => signal.removeEventListener('abort', stop))
    return stream
  }

  async #serve(name: string, there: Lane, back: Lane): Promise<void> {
    let stream: Duplex | undefined
    let isAnswered = false
    try {
      const request: unknown = JSON.parse(String(await there.take()))
      const service = Object.hasOwn(this.#services, name) ? this.#services[name] : undefined
      if (!service) throw new Fault('not_found', `the agent has no service ${name.slice(0, 100)}`)
      const onUse = () => {
        isAnswered = true
        void back.send(Buffer.from(okLine)).catch(() => {})
      }
      stream = this.#stream({ outgoing: back, incoming: there, onUse })
      const gone = new AbortController()
      stream.once('close', () => gone.abort(lostStream()))
      await service(request, stream, { signal: gone.signal })
      if (!stream.writableEnded && !stream.destroyed) stream.end()
      await finished(stream, { readable: false })
      there.discard()
      there.end()
      stream.resume()
    } catch (error) {
      if (isAnswered) {
        stream?.destroy(lostStream())
        return
      }
      await back.send(Buffer.from(faultLine(error))).catch(() => {})
      back.end()
      if (stream) return
      this.#release(there)
      this.#release(back)
    }
  }

  #stream(lanes: { outgoing: Lane; incoming: Lane; onUse?: () => void }): Duplex {
    const stream = memoryStream({ ...lanes, lost: lostStream })
    stream.once('close', () => {
      this.#release(lanes.outgoing)
      this.#release(lanes.incoming)
    })
    return stream
  }

  #lane(from: Side, to: Side): Lane {
    const lane = new Lane({ line: this.#line, from: this.#ends[from], to: this.#ends[to], clock: this.#clock })
    this.#lanes.set(lane, 2)
    return lane
  }

  #release(lane: Lane): void {
    const left = (this.#lanes.get(lane) ?? 1) - 1
    if (left > 0) return void this.#lanes.set(lane, left)
    this.#lanes.delete(lane)
    this.#serviceLanes.delete(lane)
    if (this.#lanes.size === 0) this.#line.connections.delete(this)
  }

  /** A conversation that is over, however it ended, is a connection that is over. */
  #over(side: Side): void {
    this.#release(this.#toAgent)
    this.#release(this.#toControl)
    this.#isClosed = true
    for (const lane of [...this.#serviceLanes]) lane.resetAt(this.#ends[side], lostStream())
  }
}

interface ConnectionOptions {
  line: NodeLine
  clock: Clock
  services: Readonly<Record<string, StreamService>>
}

function lostStream(): Fault {
  return new Fault('unavailable', 'the stream was broken off, or the connection was lost')
}
