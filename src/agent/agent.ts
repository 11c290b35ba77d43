import type { Driver } from '../drivers/driver.ts'
import { backoff } from '../kit/backoff.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import type { Random } from '../kit/random.ts'
import { Wakeup } from '../kit/wakeup.ts'
import { sentence } from '../model/fault.ts'
import { encodeId, type NodeId } from '../model/ids.ts'
import type { NodeFacts } from '../model/node.ts'
import { formatDuration } from '../model/units.ts'
import type { ControlLink, StreamService } from '../wire/link.ts'
import type { ServiceName } from '../wire/services.ts'
import type { Parts } from './allocation-runner.ts'
import { Allocations } from './allocations.ts'
import { eventKinds } from './event-kinds.ts'
import { ImageKeeper, mostImageBytes } from './images.ts'
import type { Ledger } from './ledger.ts'
import type { Probe } from './probe.ts'
import { Reporter } from './reporter.ts'
import type { SandboxOffer } from './sandboxes/offer.ts'
import { sandboxStreamServices } from './sandboxes/services.ts'
import { streamServices } from './services/services.ts'
import { converse, type SessionEnd } from './session.ts'
import type { Workspace } from './workspace.ts'

export interface AgentOptions {
  clock: Clock
  random: Random
  log: Log
  ledger: Ledger
  workspace: Workspace
  drivers: readonly Driver[]
  probe: Probe
  node: { id: NodeId; name: string; labels?: Readonly<Record<string, string>> }
  /** What the node is, now. Asked again every half minute, and when `newFacts` rings. */
  facts: () => Promise<NodeFacts>
  newFacts?: Wakeup | undefined
  /** Sandboxes, and what makes their templates, where this machine can have them. */
  sandboxes?: SandboxOffer | undefined
  /** Bytes that images may take on this node; unused ones go first. 20 GiB when not given. */
  imageBudget?: number
  /** Connects to the control plane and offers it these services. */
  dial: (options: { services: Readonly<Record<string, StreamService>>; signal: AbortSignal }) => Promise<ControlLink>
  /** Ends the agent as `close` does. */
  signal?: AbortSignal
}

export interface Agent extends AsyncDisposable {
  readonly services: Readonly<Record<ServiceName, StreamService>>
  /** Whether a session lives. */
  readonly connected: boolean
  readonly allocations: Allocations
  /** Lets go of everything and leaves the workloads running. */
  close(): Promise<void>
}

/**
 * The node's side: makes real what is assigned to this machine, and says how it goes. First it takes over what an
 * earlier agent left running, then it dials, again and again for as long as it lives; workloads do not notice.
 */
export async function startAgent(options: AgentOptions): Promise<Agent> {
  const { clock, log, ledger, workspace } = options
  const closing = new AbortController()
  const signal = options.signal ? AbortSignal.any([closing.signal, options.signal]) : closing.signal
  const reporter = new Reporter({ clock })
  const { drivers, imageBudget: budgetBytes = mostImageBytes } = options
  const images = new ImageKeeper({ drivers, budgetBytes, clock, log })
  let facts = await options.facts()
  const node = { ...options.node, labels: options.node.labels ?? {} }
  const parts: Parts = {
    clock,
    log,
    ledger,
    workspace,
    drivers: new Map(drivers.map((driver) => [driver.name, driver])),
    probe: options.probe,
    node,
    facts: () => facts,
    publish: (runner) => reporter.status(runner),
    forget: (runner) => reporter.forget(runner.id),
    event: (event) => reporter.event(event),
    prepared: () => images.ring(),
    signal,
  }
  const { lost } = ledger.load()
  if (lost !== undefined) {
    log.error({}, lost)
    reporter.event({ at: clock.now(), level: 'error', kind: eventKinds.agentLedgerLost, message: lost.slice(0, 2000) })
  }
  const allocations = new Allocations(parts)
  await allocations.resume()
  if (allocations.count > 0)
    log.info({ allocations: allocations.count }, 'took over the allocations of an earlier agent')

  const services = streamServices(parts, allocations)
  const offered = options.sandboxes ? { ...services, ...sandboxStreamServices(options.sandboxes, options) } : services
  const newFacts = options.newFacts ?? new Wakeup()
  const instance = encodeId(options.random.bytes(10))
  let connected = false
  let linked: ControlLink | undefined

  /** Yields facts that differ from those said before. */
  async function* changedFacts({ signal }: { signal: AbortSignal }): AsyncGenerator<NodeFacts> {
    let said = JSON.stringify(facts)
    while (!signal.aborted) {
      await newFacts.next({ clock, withinMs: factsMs, signal })
      signal.throwIfAborted()
      facts = await options.facts().catch((error: unknown) => {
        log.warn({ err: error }, 'the facts of this machine could not be read')
        return facts
      })
      const now = JSON.stringify(facts)
      if (now === said) continue
      said = now
      yield facts
    }
  }

  const session = async (): Promise<SessionEnd> => {
    const link = await options.dial({ services: offered, signal })
    linked = link
    try {
      facts = await options.facts().catch(() => facts)
      allocations.forgetVersion()
      const hello = { node: options.node.id, name: options.node.name, instance, now: clock.now(), facts }
      connected = true
      return await converse({
        link,
        hello,
        clock,
        log,
        allocations,
        reporter,
        sandboxes: options.sandboxes,
        relabel: (labels) => {
          node.labels = labels
        },
        changedFacts,
        signal,
      })
    } finally {
      connected = false
      linked = undefined
      await hangUp(link)
    }
  }

  const dialling = keepSession(session, { clock, log, random: options.random, signal })
  const trimming = trimLogs(parts, allocations, signal)
  const evicting = images.run((driver) => facts.drivers[driver]?.healthy === true, { signal })

  let closed: Promise<void> | undefined
  const close = (): Promise<void> => {
    closed ??= (async () => {
      closing.abort(new Error('the agent is shutting down'))
      if (linked) await hangUp(linked)
      await Promise.all([dialling, trimming, evicting])
      await allocations.close()
      await ledger.close()
    })()
    return closed
  }
  options.signal?.addEventListener('abort', () => void close(), { once: true })

  return {
    services,
    allocations,
    get connected() {
      return connected
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

const factsMs = 30_000
const trimMs = 10_000
/** A session that lasted this long was a good one: the next try comes soon. */
const lastingMs = 10_000

async function hangUp(link: ControlLink): Promise<void> {
  try {
    await link[Symbol.asyncDispose]()
  } catch {
    // A link that cannot be closed in good order is closed all the same.
  }
}

/** One session after the other, never two; ever longer pauses while they come to nothing. */
async function keepSession(
  session: () => Promise<SessionEnd>,
  { clock, log, random, signal }: { clock: Clock; log: Log; random: Random; signal: AbortSignal },
): Promise<void> {
  let said = ''
  for (let attempt = 1; !signal.aborted; attempt++) {
    const begun = clock.monotonic()
    const end = await session().catch((error: unknown): SessionEnd => ({ how: 'lost', welcomed: false, error }))
    if (signal.aborted) return
    const lasted = clock.monotonic() - begun
    if (lasted >= lastingMs) attempt = 1
    let waitMs = backoff(attempt, { baseMs: 100, maxMs: 8000, random })
    let message: string
    if (end.how === 'goodbye') {
      waitMs = Math.max(waitMs, end.retryMs)
      message = `the control plane ended the session: ${end.message}; coming back in ${formatDuration(end.retryMs)}`
    } else {
      message = `no session with the control plane: ${sentence(end.error)}; what runs goes on, and dialling too`
    }
    // Said once, not with every try that meets the same.
    if (message !== said) log.warn({ attempt }, message)
    said = lasted >= lastingMs ? '' : message
    await clock.sleep(waitMs, { signal }).catch(() => {})
  }
}

/** Output is kept within its bounds by looking now and then. */
async function trimLogs(parts: Parts, allocations: Allocations, signal: AbortSignal): Promise<void> {
  const { clock, workspace, log } = parts
  while (!signal.aborted) {
    await clock.sleep(trimMs, { signal }).catch(() => {})
    for (const runner of allocations.all()) {
      for (const { name, spec, record } of runner.tasks) {
        if (signal.aborted) return
        if (record.step !== 'running') continue
        await workspace.trimLogs(workspace.places(runner.id, name), spec.logs).catch((error: unknown) => {
          log.warn({ err: error, allocation: runner.id, task: name }, 'output could not be trimmed')
        })
      }
    }
  }
}
