import { Fault } from '../../model/fault.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Node } from '../../model/node.ts'

/** How many starts a node is asked for at the same time, unless its driver says another number (`starts`). */
const defaultStarts = 32
/** Starts that may wait for one node; the next is told to come back later. */
const mostWaiting = 1024

/**
 * Who may begin a start on which node: so many at a time, the others in a queue that serves everybody who asks in turn,
 * so that ten thousand starts of one do not keep another from their first. Nothing collapses under more than it can
 * take; it says so.
 */
export class Starts {
  readonly #gates = new Map<NodeId, Gate>()

  /** Starts under way and waiting on a node. */
  load(node: NodeId): number {
    const gate = this.#gates.get(node)
    return gate ? gate.running + gate.waiting : 0
  }

  /** Resolves when it is this one's turn; dispose what is returned when the start is over. */
  async take(node: { id: NodeId; name: string }, most: number, by: string, signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted()
    const gate = this.#gates.get(node.id) ?? { running: 0, waiting: 0, queues: new Map() }
    this.#gates.set(node.id, gate)
    if (gate.running < most && gate.waiting === 0) {
      gate.running += 1
      return this.#turn(node.id, gate)
    }
    if (gate.waiting >= mostWaiting) {
      throw new Fault(
        'exhausted',
        `${gate.waiting} starts wait for node "${node.name}" already; try again in a moment, or add a node`,
      )
    }
    await wait(gate, by, signal)
    return this.#turn(node.id, gate)
  }

  #turn(node: NodeId, gate: Gate): Disposable {
    let over = false
    return {
      [Symbol.dispose]: () => {
        if (over) return
        over = true
        const next = nextOf(gate)
        if (next) return next()
        gate.running -= 1
        if (gate.running === 0) this.#gates.delete(node)
      },
    }
  }
}

interface Gate {
  running: number
  waiting: number
  /** By who asks; whoever was served goes to the end. */
  queues: Map<string, Set<() => void>>
}

async function wait(gate: Gate, by: string, signal: AbortSignal): Promise<void> {
  const queue = gate.queues.get(by) ?? new Set()
  gate.queues.set(by, queue)
  gate.waiting += 1
  const turn = Promise.withResolvers<void>()
  const leave = () => {
    if (!queue.delete(turn.resolve)) return
    gate.waiting -= 1
    if (queue.size === 0 && gate.queues.get(by) === queue) gate.queues.delete(by)
    turn.reject(signal.reason)
  }
  queue.add(turn.resolve)
  signal.addEventListener('abort', leave, { once: true })
  try {
    await turn.promise
  } finally {
    signal.removeEventListener('abort', leave)
  }
}

function nextOf(gate: Gate): (() => void) | undefined {
  for (const [by, queue] of gate.queues) {
    const [first] = queue
    gate.queues.delete(by)
    if (!first) continue
    queue.delete(first)
    gate.waiting -= 1
    if (queue.size > 0) gate.queues.set(by, queue)
    return first
  }
  return undefined
}

export function startsOf(node: Node): number {
  const said = Number(node.facts?.drivers.sandbox?.attributes.starts)
  return Number.isInteger(said) && said > 0 ? said : defaultStarts
}
