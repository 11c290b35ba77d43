import { createHash } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Manifest } from '../blocks/manifest.ts'
import { Gate } from '../kit/gate.ts'
import { Fault, sentence } from '../model/fault.ts'
import { type BuildId, encodeId, type SandboxId } from '../model/ids.ts'
import { type Egress, isOver, type SandboxPhase, type SandboxSpec } from '../model/sandbox.ts'
import { formatSize } from '../model/units.ts'
import { identify } from './identity.ts'
import { clear, type Live, raise } from './live.ts'
import { memoryFault } from './memory-fault.ts'
import type { Parts } from './parts.ts'
import { Pool } from './pool.ts'
import { Records, type SandboxRecord } from './record.ts'
import type {
  ForkResult,
  GuestAccess,
  Sandboxes,
  SandboxFacts,
  SandboxNews,
  SandboxStatus,
  Saved,
} from './sandboxes.ts'
import { save } from './save.ts'
import { clearStrays, reach } from './take-over.ts'

/** So many may wait to start; whoever comes beyond that is told at once. */
const mostWaiting = 1000
/** What a clone takes before its guest does anything, measured under emulation, and some more. */
const cloneBytes = 64 * 2 ** 20

/** One sandbox as this agent holds it. */
interface Held {
  record: SandboxRecord
  live: Live | undefined
  /** What is under way with it; the next thing waits for it. */
  turn: Promise<unknown>
  /** Ends what is under way: the sandbox is to be killed. */
  readonly killing: AbortController
}

/** Opens the sandboxes of this node: first it takes over, finishes or undoes what an earlier agent left. */
export async function openSandboxes(parts: Parts): Promise<Sandboxes> {
  const records = await Records.open(join(parts.directory, 'sandboxes'))
  await mkdir(join(parts.directory, 'vms'), { recursive: true, mode: 0o700 })
  const engine = new Engine(parts, records)
  await engine.takeOver()
  return engine
}

class Engine implements Sandboxes {
  readonly #parts: Parts
  readonly #records: Records
  readonly #held = new Map<SandboxId, Held>()
  /** Those that are over, until the next agent: to be told to a control plane that was away. */
  readonly #over = new Map<SandboxId, SandboxStatus>()
  readonly #listeners = new Set<(news: SandboxNews) => void>()
  readonly #gate: Gate
  readonly #pool: Pool
  readonly #closing = new AbortController()
  readonly #starts = { running: 0, waiting: 0, none: 0 }
  #vmm: { healthy: boolean; reason?: string; remedy?: string; accelerator: string } | undefined

  constructor(parts: Parts, records: Records) {
    this.#parts = parts
    this.#records = records
    this.#gate = new Gate({ places: parts.starts, mostWaiting })
    this.#pool = new Pool(parts, this.#gate)
  }

  async create(spec: SandboxSpec, { signal }: { signal: AbortSignal }): Promise<void> {
    await this.#create(spec, 'create', signal)
  }

  async #create(spec: SandboxSpec, how: 'create' | 'fork', signal: AbortSignal): Promise<void> {
    const known = this.#held.get(spec.id)
    if (known) {
      await known.turn.catch(() => {})
      if (known.record.phase === 'running') return
      throw new Fault('conflict', `sandbox ${spec.id} exists already, and is ${known.record.phase}`)
    }
    const held: Held = {
      record: newRecord(spec),
      live: undefined,
      turn: Promise.resolve(),
      killing: new AbortController(),
    }
    this.#held.set(spec.id, held)
    await this.#inTurn(held, signal, async (until) => {
      try {
        const { manifest } = await this.#parts.blocks.ask('manifest', { build: spec.build }, { signal: until })
        held.record = withDefaults(held.record, spec, manifest)
        await this.#records.put(held.record)
        await this.#start(held, manifest, { how, signal: until })
      } catch (error) {
        await this.#forget(held)
        throw error
      }
    })
  }

  async pause(id: SandboxId, { build, signal }: { build: BuildId; signal: AbortSignal }): Promise<Saved> {
    const held = this.#find(id)
    return this.#inTurn(held, signal, async (until) => {
      if (held.record.phase === 'paused' && held.record.paused === build)
        return { build, addedBytes: 0, stoppedMs: 0, savedMs: 0 }
      const live = this.#running(held)
      await this.#become(held, 'pausing', { pausing: build })
      let saved: Saved
      try {
        saved = await save(this.#parts, live, {
          ...this.#saving(held, live),
          ...{ build, reason: 'pause', reference: sandboxReference(id), goOn: false, signal: until },
        })
      } catch (error) {
        if (held.live === live) await this.#become(held, 'running', { pausing: null, token: live.channel.nextToken })
        throw error
      }
      held.live = undefined
      await this.#become(held, 'paused', { paused: build, pausing: null, mapped: null })
      await this.#end(live)
      return saved
    })
  }

  async resume(spec: SandboxSpec, { signal }: { signal: AbortSignal }): Promise<void> {
    const { id } = spec
    // Paused on another node, or known to nobody but the control plane: its build is all that it takes.
    if (!this.#held.has(id)) {
      const record = { ...newRecord(spec), phase: 'paused' as const, paused: spec.build }
      this.#held.set(id, { record, live: undefined, turn: Promise.resolve(), killing: new AbortController() })
    }
    const held = this.#find(id)
    await this.#inTurn(held, signal, async (until) => {
      const { phase, paused } = held.record
      if (phase === 'running') return
      if (phase !== 'paused' || paused === null) throw wrongPhase(held, 'paused')
      const { manifest } = await this.#parts.blocks.ask('manifest', { build: paused }, { signal: until })
      held.record = { ...withDefaults(held.record, spec, manifest), egress: spec.egress }
      await this.#become(held, 'resuming')
      try {
        await this.#start(held, manifest, { how: 'resume', signal: until })
      } catch (error) {
        if (!held.killing.signal.aborted) await this.#become(held, 'paused', { mapped: null })
        throw error
      }
    })
  }

  async snapshot(id: SandboxId, { build, signal }: { build: BuildId; signal: AbortSignal }): Promise<Saved> {
    const held = this.#find(id)
    return this.#inTurn(held, signal, async (until) => this.#snapshot(held, build, `build/${build}`, until))
  }

  async fork(
    id: SandboxId,
    { build, children, signal }: { build: BuildId; children: SandboxSpec[]; signal: AbortSignal },
  ): Promise<ForkResult[]> {
    const held = this.#find(id)
    const reference = `fork/${build}`
    await this.#inTurn(held, signal, async (until) => this.#snapshot(held, build, reference, until))
    const results = await Promise.all(
      children.map(async (spec): Promise<ForkResult> => {
        try {
          await this.#create({ ...spec, build, env: { ...held.record.env, ...spec.env } }, 'fork', signal)
          return { id: spec.id }
        } catch (error) {
          const { code, message } = Fault.from(error)
          return { id: spec.id, fault: { code, message } }
        }
      }),
    )
    // Whoever was made of it keeps what it needs of it open.
    await this.#parts.blocks.ask('deleteReference', { name: reference }, { signal: this.#closing.signal })
    return results
  }

  async kill(id: SandboxId): Promise<void> {
    const held = this.#held.get(id)
    if (!held) return
    held.killing.abort(new Fault('conflict', `sandbox ${id} was killed`))
    await held.turn.catch(() => {})
    if (this.#held.get(id) !== held) return
    held.record = { ...held.record, phase: 'killed' }
    await this.#forget(held)
  }

  async setEgress(id: SandboxId, egress: Egress): Promise<void> {
    const held = this.#find(id)
    await this.#inTurn(held, this.#closing.signal, async () => {
      await held.live?.link.allow(egress)
      await this.#become(held, held.record.phase, { egress })
    })
  }

  async guest(id: SandboxId): Promise<GuestAccess> {
    const held = this.#find(id)
    // While a snapshot is taken the channel is at rest; what comes meanwhile waits for its end.
    await held.turn.catch(() => {})
    const { channel } = this.#running(held)
    return { channel, env: held.record.env }
  }

  async console(id: SandboxId): Promise<string> {
    const { live } = this.#find(id)
    return live === undefined ? '' : readFile(live.vm.console, 'utf8').catch(() => '')
  }

  list(): SandboxStatus[] {
    return [...this.#over.values(), ...[...this.#held.values()].map(({ record }) => statusOf(record))]
  }

  subscribe(listener: (news: SandboxNews) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  facts(): SandboxFacts {
    let running = 0
    for (const { record } of this.#held.values()) if (record.phase === 'running') running += 1
    const { healthy = false, reason, remedy, accelerator = '' } = this.#vmm ?? {}
    return {
      healthy,
      ...(reason === undefined ? {} : { reason }),
      ...(remedy === undefined ? {} : { remedy }),
      vmm: this.#parts.vmm.name,
      accelerator,
      network: this.#parts.network.name,
      running,
      warm: this.#pool.running,
      starts: { ...this.#starts },
    }
  }

  /** Lets go of everything; sandboxes run on. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new Fault('unavailable', 'the agent is shutting down'))
    await this.#pool.close()
    for (const held of this.#held.values()) {
      await held.turn.catch(() => {})
      if (held.live) await letGo(held.live)
    }
  }

  async takeOver(): Promise<void> {
    const { vmm, log } = this.#parts
    const { healthy, reason, remedy, accelerator } = await vmm.facts()
    this.#vmm = {
      healthy,
      accelerator,
      ...(reason === undefined ? {} : { reason }),
      ...(remedy === undefined ? {} : { remedy }),
    }
    const { records, damaged } = await this.#records.load()
    if (damaged.length > 0) log.error({ damaged }, 'records of sandboxes could not be read; their VMs are ended')
    await clearStrays(this.#parts, records, this.#closing.signal)
    await Promise.all(records.map((record) => this.#adopt(record)))
  }

  /** Finds a sandbox that outlived its agent, and brings what was under way to one end or the other. */
  async #adopt(record: SandboxRecord): Promise<void> {
    const held: Held = { record, live: undefined, turn: Promise.resolve(), killing: new AbortController() }
    this.#held.set(record.id, held)
    if (record.phase === 'paused') return
    try {
      if (record.phase === 'creating') throw new Fault('unavailable', 'the agent ended while it was being created')
      if (record.phase === 'resuming') return await this.#backToPaused(held)
      if (record.phase === 'pausing' && (await this.#isStored(record.pausing))) {
        held.record = { ...record, paused: record.pausing }
        return await this.#backToPaused(held)
      }
      held.live = await reach(this.#parts, record, this.#closing.signal)
      await this.#become(held, 'running', { pausing: null, token: held.live.channel.nextToken })
      this.#watch(held, held.live)
    } catch (error) {
      held.record = { ...held.record, phase: 'failed', reason: sentence(error).slice(0, 2000) }
      await this.#forget(held)
    }
  }

  async #backToPaused(held: Held): Promise<void> {
    await clear(this.#parts, held.record.place)
    await this.#become(held, 'paused', { pausing: null, mapped: null })
  }

  async #isStored(build: BuildId | null): Promise<boolean> {
    if (build === null) return false
    const { signal } = this.#closing
    return this.#parts.blocks.ask('manifest', { build }, { signal }).then(
      () => true,
      () => false,
    )
  }

  /** From a build to a running sandbox; the record says `creating` or `resuming` meanwhile. */
  async #start(
    held: Held,
    manifest: Manifest,
    { how, signal }: { how: 'create' | 'fork' | 'resume'; signal: AbortSignal },
  ): Promise<void> {
    const { record } = held
    using _starting = this.#pool.starting()
    const ahead = how === 'create' ? this.#pool.take(manifest) : undefined
    if (ahead) this.#starts.running += 1
    const live = ahead ?? (await this.#raise(held, manifest, how !== 'create', signal))
    try {
      held.record = { ...held.record, place: live.place, mapped: live.mapped }
      if (ahead) await this.#records.put(held.record)
      if (record.egress.mode !== 'deny') await live.link.allow(record.egress)
      const { hostname, machineId, user, cwd } = record
      await identify(this.#parts, live, { hostname, machineId, fresh: how !== 'resume', user, cwd, signal })
      held.live = live
      this.#watch(held, live)
      await this.#become(held, 'running', { token: live.channel.nextToken })
    } catch (error) {
      held.live = undefined
      await this.#end(live)
      throw error
    }
  }

  async #raise(held: Held, manifest: Manifest, overParent: boolean, signal: AbortSignal): Promise<Live> {
    using entered = await this.#gate.enter({ signal })
    if (!entered) {
      throw new Fault(
        'exhausted',
        `${mostWaiting} sandboxes wait to start on this node already; try again in a moment, or add nodes`,
      )
    }
    this.#admit(manifest)
    const waiting = manifest.snapshot ? this.#pool.takeWaiting(manifest.machine) : undefined
    this.#starts[waiting ? 'waiting' : 'none'] += 1
    const place = waiting?.place ?? `s${encodeId(this.#parts.random.bytes(10))}`
    held.record = { ...held.record, place }
    await this.#records.put(held.record)
    return raise(this.#parts, { place, manifest, waiting, overParent, signal })
  }

  /** Room for what it takes at once; what it may come to use is the scheduler's reservation. */
  #admit(manifest: Manifest): void {
    const needed = cloneBytes + (manifest.snapshot ? 0 : manifest.machine.memoryMiB * 2 ** 20)
    const free = this.#parts.freeMemory()
    if (free >= needed) return
    throw new Fault(
      'exhausted',
      `this node has ${formatSize(free)} of memory left, and one more sandbox takes ${formatSize(needed)}; kill or pause some, or add nodes`,
    )
  }

  async #snapshot(held: Held, build: BuildId, reference: string, signal: AbortSignal): Promise<Saved> {
    const live = this.#running(held)
    const saved = await save(this.#parts, live, {
      ...this.#saving(held, live),
      ...{ build, reason: 'snapshot', reference, goOn: true, signal },
    })
    await this.#become(held, 'running', { token: live.channel.nextToken })
    return saved
  }

  #saving(held: Held, live: Live) {
    const { user, cwd } = held.record
    return { defaults: { ...live.manifest.defaults, user, cwd } }
  }

  #find(id: SandboxId): Held {
    const held = this.#held.get(id)
    if (held) return held
    const over = this.#over.get(id)
    if (over) throw new Fault('conflict', `sandbox ${id} is ${over.phase}${over.reason ? `: ${over.reason}` : ''}`)
    throw new Fault('not_found', `sandbox ${id} is not on this node`)
  }

  #running(held: Held): Live {
    if (held.record.phase === 'running' && held.live) return held.live
    throw wrongPhase(held, 'running')
  }

  /** One thing after the other with each sandbox; a kill ends what is under way. */
  async #inTurn<T>(held: Held, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const until = AbortSignal.any([signal, held.killing.signal, this.#closing.signal])
    const before = held.turn
    const { promise, resolve } = Promise.withResolvers<void>()
    held.turn = promise
    try {
      await before.catch(() => {})
      until.throwIfAborted()
      return await work(until)
    } finally {
      resolve()
    }
  }

  async #become(held: Held, phase: SandboxPhase, change: Partial<SandboxRecord> = {}): Promise<void> {
    const isNews = held.record.phase !== phase
    held.record = { ...held.record, ...change, phase }
    await this.#records.put(held.record)
    if (isNews) this.#tell({ kind: 'status', status: statusOf(held.record) })
  }

  /** It is over, however that came about: frees everything, and says so. */
  async #forget(held: Held): Promise<void> {
    const { record, live } = held
    held.live = undefined
    if (live) await this.#end(live)
    else await clear(this.#parts, record.place)
    const { signal } = this.#closing
    // Also one that no record tells of: a pause may have been stored after the agent that asked for it died.
    await this.#parts.blocks.ask('deleteReference', { name: sandboxReference(record.id) }, { signal }).catch(() => {})
    await this.#records.delete(record.id)
    this.#held.delete(record.id)
    const status = statusOf(record)
    if (!isOver(status.phase)) return
    this.#over.set(record.id, status)
    if (this.#over.size > mostOver) this.#over.delete(this.#over.keys().next().value as SandboxId)
    this.#tell({ kind: 'status', status })
  }

  async #end(live: Live): Promise<void> {
    await letGo(live)
    await clear(this.#parts, live.place)
  }

  /** A VM that ends by itself takes its sandbox with it; and what its network refuses is news. */
  #watch(held: Held, live: Live): void {
    void live.vm.exited.then(async ({ reason }) => {
      if (held.live !== live || this.#closing.signal.aborted) return
      held.killing.abort(new Fault('unavailable', `the VM of sandbox ${held.record.id} ended: ${reason}`))
      await held.turn.catch(() => {})
      if (held.live !== live) return
      const unread = await memoryFault(this.#parts, live.mapped)
      const why = unread === undefined ? reason : `its memory cannot be read: ${unread}`
      held.record = { ...held.record, phase: 'failed', reason: `its VM ended: ${why}`.slice(0, 2000) }
      await this.#forget(held)
    })
    void (async () => {
      for await (const denial of live.link.denials) {
        if (held.live !== live) return
        this.#tell({ kind: 'denied', id: held.record.id, denial })
      }
    })().catch((error: unknown) => this.#parts.log.warn({ err: error }, 'denials of a sandbox could not be read'))
  }

  #tell(news: SandboxNews): void {
    for (const listener of this.#listeners) listener(news)
  }
}

/** So many that are over are remembered. */
const mostOver = 10_000

async function letGo(live: Live): Promise<void> {
  await live.channel[Symbol.asyncDispose]()
  await live.vm[Symbol.asyncDispose]()
}

function newRecord(spec: SandboxSpec): SandboxRecord {
  return {
    id: spec.id,
    phase: 'creating',
    build: spec.build,
    paused: null,
    pausing: null,
    mapped: null,
    place: `s${spec.id}`,
    token: '',
    machineId: createHash('sha256').update(`machine ${spec.id}`).digest('hex').slice(0, 32),
    hostname: spec.hostname ?? spec.id,
    env: spec.env,
    user: spec.user ?? '',
    cwd: spec.cwd ?? '',
    egress: spec.egress,
  }
}

/** What the creator did not say is as the build has it. */
function withDefaults(record: SandboxRecord, spec: SandboxSpec, { defaults }: Manifest): SandboxRecord {
  return {
    ...record,
    env: { ...defaults.env, ...record.env, ...spec.env },
    user: spec.user ?? (record.user || defaults.user),
    cwd: spec.cwd ?? (record.cwd || defaults.cwd),
  }
}

function statusOf({ id, phase, build, paused, reason }: SandboxRecord): SandboxStatus {
  return { id, phase, build: paused ?? build, ...(reason === undefined ? {} : { reason }) }
}

function sandboxReference(id: SandboxId): string {
  return `sandbox/${id}`
}

function wrongPhase(held: Held, wanted: SandboxPhase): Fault {
  const { id, phase, reason } = held.record
  return new Fault('conflict', `sandbox ${id} is ${phase}${reason ? ` (${reason})` : ''}, not ${wanted}`)
}
