import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import type { Clock } from '../../kit/clock.ts'
import { silentLog } from '../../kit/log.ts'
import { type Random, seededRandom } from '../../kit/random.ts'
import { SteppedClock } from '../../kit/stepped-clock.ts'
import { Fault, StepFault } from '../../model/fault.ts'
import { type BuildId, encodeId, type NodeId, type SandboxId } from '../../model/ids.ts'
import type { NodeFacts } from '../../model/node.ts'
import { type Build, isOver, type SandboxPhase, type SandboxSpec } from '../../model/sandbox.ts'
import type { Engine } from '../../store/engine.ts'
import { openStore } from '../../store/log-store.ts'
import { MemoryEngine } from '../../store/memory/memory-engine.ts'
import { faultLine } from '../../wire/answer.ts'
import { encodeFrame, FrameDecoder, frame } from '../../wire/frames.ts'
import type { ControlLink, StreamService } from '../../wire/link.ts'
import { type MemoryNetwork, memoryNetwork } from '../../wire/memory-link.ts'
import {
  BuildStream,
  type NodeMeasures,
  SandboxAttachStream,
  SandboxExecStream,
  SandboxFileStream,
  SandboxForwardStream,
  type SandboxReport,
  SandboxRequest,
  SandboxWatchStream,
} from '../../wire/sandbox.ts'
import { joinedNode } from '../actions/enroll-node.ts'
import { silenceAll } from '../actions/node-session.ts'
import type { Control } from '../control.ts'
import { sweepBuilds } from '../loops/builds.ts'
import { watchExpiry } from '../loops/expiry.ts'
import { watchLeases } from '../loops/leases.ts'
import { planJobs } from '../loops/planning.ts'
import { watchSilence } from '../loops/silence.ts'
import { Sessions } from '../sessions/sessions.ts'
import { testFacts } from '../testing.ts'
import type { Wanted } from './create.ts'
import { openSandboxes, type SandboxControl } from './sandboxes.ts'

/**
 * A control plane with nodes that answer as agents do, over a network in memory: for tests of what lies above the node.
 * Only the node's inside is false: its sandboxes are rows in a map, and their commands are processes of this machine.
 */
export interface SandboxWorld extends AsyncDisposable {
  readonly clock: Clock
  readonly random: Random
  readonly network: MemoryNetwork
  /** As it is now: a crash and a new start replace it. */
  readonly control: Control
  readonly sessions: Sessions
  readonly sandboxes: SandboxControl
  /** As `kill -9` of the control plane, and its start after that. */
  restart(): Promise<void>
  addNode(name: string, facts?: Partial<NodeFacts>): Promise<FakeNode>
  /** Puts a template there as if it had been built on these nodes. */
  addTemplate(name: string, nodes: readonly FakeNode[], build?: Partial<Build>): Promise<Build>
}

export async function openSandboxWorld({
  clock = new SteppedClock(),
  seed = 'sandboxes',
  debug = true,
  engine,
}: {
  clock?: Clock
  /** Instead of one in memory; there is then no restart. */
  engine?: Engine
  seed?: string
  debug?: boolean
} = {}): Promise<SandboxWorld> {
  const random = seededRandom(seed)
  const network = memoryNetwork({ clock, random })
  const medium = new MemoryEngine().medium
  const nodes: FakeNode[] = []
  let running = await startControl({ clock, random, network, medium, debug, engine })
  return {
    clock,
    random,
    network,
    get control() {
      return running.control
    },
    get sessions() {
      return running.sessions
    },
    get sandboxes() {
      return running.sandboxes
    },
    restart: async () => {
      running.crash()
      for (const node of nodes) await node.lostLink()
      running = await startControl({ clock, random, network, medium, debug })
      for (const node of nodes) if (node.wanted) await node.connect()
    },
    addNode: async (name, facts = {}) => {
      const id = encodeId(random.bytes(10)) as NodeId
      const keyFingerprint = createHash('sha256').update(id).digest('hex')
      const { store } = running.control
      await store.write((tx) => tx.put('nodes', joinedNode(tx.now, { id, name, labels: {}, keyFingerprint })))
      const node = new FakeNode({ id, name, facts: { ...sandboxFacts, ...facts }, clock, network })
      nodes.push(node)
      await node.connect()
      return node
    },
    addTemplate: async (name, on, more = {}) => {
      const id = encodeId(random.bytes(10)) as BuildId
      const build: Build = {
        id,
        template: name,
        parent: null,
        reason: 'template',
        status: 'ready',
        sandbox: null,
        nodes: on.map((node) => node.id),
        machine: { arch: 'amd64', cpus: 1, memoryMiB: 256 },
        diskMiB: 1024,
        addedBytes: null,
        compat: '',
        store: '',
        steps: 0,
        createdAt: clock.now(),
        changedAt: clock.now(),
        by: 'test',
        ...more,
      }
      for (const node of on) node.builds.add(build.id)
      await running.control.store.write((tx) => {
        tx.put('builds', build)
        const known = tx.get('templates', name)
        tx.put('templates', {
          name,
          tags: { ...known?.tags, latest: build.id },
          aliases: known?.aliases ?? [],
          createdAt: tx.now,
          changedAt: tx.now,
        })
      })
      return build
    },
    [Symbol.asyncDispose]: async () => {
      for (const node of nodes) await node.lostLink()
      running.crash()
    },
  }
}

/** 16 GiB, and a sandbox driver that works. */
/** A sandbox of `base` that lives until it is killed. */
export const plainWish: Wanted = {
  from: 'base',
  metadata: {},
  env: {},
  cpu: 0,
  timeoutMs: null,
  onTimeout: 'kill',
  autoResume: false,
  egress: { mode: 'deny' },
}

export const sandboxFacts: NodeFacts = {
  ...testFacts,
  memory: 16 * 2 ** 30,
  drivers: {
    ...testFacts.drivers,
    sandbox: { healthy: true, attributes: { vmm: 'fake', accelerator: 'tcg', compat: 'fake-1', network: 'user' } },
  },
}

interface StartOptions {
  clock: Clock
  random: Random
  network: MemoryNetwork
  medium: MemoryEngine['medium']
  debug: boolean
  engine?: Engine | undefined
}

async function startControl({ clock, random, network, medium, debug, engine: given }: StartOptions) {
  const engine = given ?? new MemoryEngine({ medium })
  const turn = given ? {} : { turn: (flush: () => void) => queueMicrotask(flush) }
  const store = await openStore({ engine, clock, debug, ...turn })
  const control: Control = { store, clock, random, log: silentLog }
  await silenceAll(control)
  const stopping = new AbortController()
  const { signal } = stopping
  const sandboxes = openSandboxes({ control, nodes: { open: (...asked) => sessions.open(...asked) }, signal })
  const sessions = new Sessions(control, { onSandboxes: (news) => sandboxes.note(news) })
  await sandboxes.recover()
  for (const run of [planJobs, watchLeases]) void run(control, { signal })
  void watchSilence(control, { sessions, signal })
  for (const run of [watchExpiry, sweepBuilds]) void run(control, { sandboxes, signal })
  const disconnect = network.onAgent((link) => sessions.serve(link, { signal }))
  return {
    control,
    sessions,
    sandboxes,
    crash: () => {
      disconnect()
      stopping.abort(new Error('the control plane crashed'))
      void engine.close()
    },
  }
}

interface FakeSandbox {
  spec: SandboxSpec
  phase: SandboxPhase
  build: BuildId
  files: Map<string, Buffer>
}

interface FakeCommand {
  child: ChildProcessWithoutNullStreams
  words: string[]
  /** Frames of all that it wrote, and of its end. */
  kept: Buffer[]
  code: number | null
  hears: Set<(frame: Buffer) => void>
}

/** What an agent with sandboxes answers. `before` and `after` may wait, or throw, to be slow or to fail. */
export class FakeNode {
  readonly id: NodeId
  readonly name: string
  readonly facts: NodeFacts
  readonly sandboxes = new Map<SandboxId, FakeSandbox>()
  readonly builds = new Set<BuildId>()
  readonly commands = new Map<number, FakeCommand>()
  /** Every request that came, in order. */
  readonly requests: SandboxRequest[] = []
  before: (request: SandboxRequest) => Promise<void> | void = () => {}
  after: (request: SandboxRequest) => Promise<void> | void = () => {}
  /** Which forks fail. */
  forkFault: (child: number) => string | undefined = () => undefined
  /** What a build comes to. */
  buildScript: (say: (line: object) => void, context: Buffer, request: BuildStream) => Promise<void> | void = (say) =>
    say({ built: { machine: { arch: 'amd64', cpus: 1, memoryMiB: 256 }, diskMiB: 1024, addedBytes: 10 } })
  /** Whether it is to come back after a restart of the control plane. */
  wanted = true
  readonly #clock: Clock
  readonly #network: MemoryNetwork
  #link: ControlLink | undefined
  #over: AbortController | undefined
  #ended: Promise<void> = Promise.resolve()

  constructor(given: { id: NodeId; name: string; facts: NodeFacts; clock: Clock; network: MemoryNetwork }) {
    this.id = given.id
    this.name = given.name
    this.facts = given.facts
    this.#clock = given.clock
    this.#network = given.network
  }

  /** Begins a session, as an agent does: hello, then everything that it has. Resolves when that is said. */
  async connect(): Promise<void> {
    this.wanted = true
    const over = new AbortController()
    this.#over = over
    const link = await this.#network.dial(this.id, { services: this.services, signal: over.signal })
    this.#link = link
    await link.send({
      type: 'hello',
      node: this.id,
      name: this.name,
      instance: this.name,
      now: this.#clock.now(),
      facts: this.facts,
    })
    const welcomed = Promise.withResolvers<void>()
    this.#ended = (async () => {
      for await (const message of link.messages) {
        if (message.type === 'welcome') {
          await this.report({ full: true })
          welcomed.resolve()
        } else if (message.type === 'full') await link.send({ type: 'taken', version: message.version })
      }
    })().catch(() => {})
    void this.#beat(link, over.signal)
    await welcomed.promise
  }

  /** The connection breaks, and stays so until `connect`. */
  async lostLink(): Promise<void> {
    this.#over?.abort(new Error('the link was lost'))
    this.#network.reset(this.id)
    await this.#ended
    this.#link = undefined
  }

  /** Loses the connection and does not come back by itself. */
  async vanish(): Promise<void> {
    this.wanted = false
    await this.lostLink()
  }

  async report({
    full = false,
    ids = [...this.sandboxes.keys()],
    reason,
    denials = [],
    measures,
  }: {
    full?: boolean
    ids?: readonly SandboxId[]
    reason?: string
    denials?: { id: SandboxId; at: number; destination: string; reason: string }[]
    measures?: NodeMeasures
  } = {}): Promise<void> {
    const sandboxes: SandboxReport[] = ids.flatMap((id) => {
      const found = this.sandboxes.get(id)
      if (!found || (full && isOver(found.phase))) return []
      return [{ id, phase: found.phase, build: found.build, ...(reason === undefined ? {} : { reason }) }]
    })
    await this.#link?.send({ type: 'sandboxes', full, sandboxes, denials, ...(measures ? { measures } : {}) })
  }

  /** Its VM ends by itself. */
  async crash(id: SandboxId, reason: string): Promise<void> {
    const found = this.#get(id)
    found.phase = 'failed'
    await this.report({ ids: [id], reason })
  }

  readonly services: Record<string, StreamService> = {
    sandbox: async (asked, stream) => {
      const request = SandboxRequest.parse(asked)
      this.requests.push(request)
      await this.before(request)
      const answer = await this.#answer(request)
      // As of every change of a status, the control plane is told of it beside the answer.
      if (['create', 'pause', 'resume', 'fork'].includes(request.op)) await this.report()
      await this.after(request)
      stream.end(`${JSON.stringify(answer)}\n`)
    },
    sandboxExec: async (asked, stream, { signal }) => {
      const request = SandboxExecStream.parse(asked)
      const found = this.#running(request.id)
      const command = await startCommand(request, found.spec.env)
      this.commands.set(command.child.pid ?? 0, command)
      if (!request.detached) signal.addEventListener('abort', () => command.child.kill('SIGKILL'), { once: true })
      await carry(command, stream, { from: 0, terminal: request.terminal !== undefined })
    },
    sandboxAttach: async (asked, stream) => {
      const { id, pid, from } = SandboxAttachStream.parse(asked)
      this.#running(id)
      const command = this.commands.get(pid)
      if (!command) throw new Fault('not_found', `no command with process id ${pid} is known in the guest`)
      await carry(command, stream, { from, terminal: false })
    },
    sandboxFile: async (asked, stream) => {
      const request = SandboxFileStream.parse(asked)
      const { files } = this.#running(request.id)
      if (request.op === 'read') {
        const bytes = files.get(request.path)
        if (!bytes) throw new Fault('not_found', `there is no file "${request.path}"`)
        const from = request.offset ?? 0
        stream.end(bytes.subarray(from, request.length === undefined ? undefined : from + request.length))
        return
      }
      if (request.path.startsWith('/full/')) {
        await once(stream, 'data')
        stream.end(faultLine(new Fault('exhausted', `cannot write "${request.path}": no space left on device`)))
        return
      }
      const bytes = await buffer(stream)
      files.set(request.path, bytes)
      stream.end('{}\n')
    },
    sandboxForward: async (asked, stream) => {
      const { id, port } = SandboxForwardStream.parse(asked)
      this.#running(id)
      const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true })
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve)
        socket.once('error', () => reject(new Fault('not_found', `nothing listens on port ${port} of the sandbox`)))
      })
      stream.on('close', () => socket.destroy())
      socket.on('error', () => stream.destroy())
      stream.pipe(socket)
      socket.pipe(stream)
      await once(socket, 'close')
    },
    sandboxWatch: async (asked, stream) => {
      const { id, path } = SandboxWatchStream.parse(asked)
      this.#running(id)
      for (const kind of ['created', 'changed', 'removed'])
        stream.write(`${JSON.stringify({ kind, path: `${path}/a` })}\n`)
      stream.end()
    },
    build: async (asked, stream) => {
      const request = BuildStream.parse(asked)
      const say = (line: object) => void stream.write(`${JSON.stringify(line)}\n`)
      const context = await buffer(stream)
      try {
        await this.buildScript(say, context, request)
        this.builds.add(request.build)
      } catch (error) {
        const { code, message } = Fault.from(error)
        say({ fault: { code, message, ...(error instanceof StepFault ? { step: true } : {}) } })
      }
      stream.end()
    },
  }

  async #answer(request: SandboxRequest): Promise<object> {
    switch (request.op) {
      case 'create': {
        if (!this.builds.has(request.spec.build)) throw new Fault('not_found', 'the build is not here')
        this.#put(request.spec, 'running')
        return {}
      }
      case 'resume': {
        if (!this.builds.has(request.spec.build)) throw new Fault('not_found', 'the build is not here')
        if (!this.sandboxes.has(request.spec.id)) this.#put(request.spec, 'paused')
        const found = this.#get(request.spec.id)
        if (found.phase !== 'paused' && found.phase !== 'running') throw new Fault('conflict', 'it is not paused')
        found.spec = { ...request.spec, env: { ...found.spec.env, ...request.spec.env } }
        found.phase = 'running'
        found.build = request.spec.build
        return {}
      }
      case 'pause': {
        const found = this.#get(request.id)
        this.builds.add(request.build)
        found.phase = 'paused'
        found.build = request.build
        return { addedBytes: 1000, stoppedMs: 5, savedMs: 20 }
      }
      case 'snapshot':
        this.#running(request.id)
        this.builds.add(request.build)
        return { addedBytes: 1000, stoppedMs: 5, savedMs: 20 }
      case 'fork': {
        const found = this.#running(request.id)
        this.builds.add(request.build)
        const children = request.children.map((spec, at) => {
          const message = this.forkFault(at)
          if (message !== undefined) return { id: spec.id, fault: { code: 'exhausted', message } }
          this.#put({ ...spec, env: { ...found.spec.env, ...spec.env } }, 'running', found.files)
          return { id: spec.id }
        })
        return { children }
      }
      case 'kill': {
        this.#get(request.id)
        this.sandboxes.delete(request.id)
        return {}
      }
      case 'egress': {
        const found = this.#running(request.id)
        found.spec = { ...found.spec, egress: request.egress }
        return {}
      }
      case 'forgetBuild':
        if (!this.builds.delete(request.build)) throw new Fault('not_found', 'the build is not here')
        return {}
      case 'adoptBuild':
        if (!this.builds.has(request.build)) throw new Fault('not_found', 'the build is not here')
        return {
          reason: 'pause',
          parent: null,
          createdAt: 1,
          machine: { arch: 'amd64', cpus: 1, memoryMiB: 256 },
          diskMiB: 1024,
          addedBytes: 10,
          compat: '',
        }
      case 'metrics':
        this.#running(request.id)
        return {
          memoryTotal: 2 ** 28,
          memoryUsed: 2 ** 26,
          diskTotal: 2 ** 30,
          diskUsed: 2 ** 28,
          cpus: 1,
          cpuMs: 1234,
          now: this.#clock.now(),
          processes: 12,
        }
      case 'console':
        return { text: 'Linux version 6.1\nready\n' }
      case 'processes':
        return {
          processes: [...this.commands].map(([pid, { words, code }]) => {
            return { pid, command: words, startedAt: 1, running: code === null, code }
          }),
        }
      case 'signal':
        this.commands.get(request.pid)?.child.kill(request.signal as NodeJS.Signals)
        return {}
      case 'input': {
        const { stdin } = this.commands.get(request.pid)?.child ?? {}
        stdin?.write(Buffer.from(request.data, 'base64'))
        if (request.end) stdin?.end()
        return {}
      }
      default:
        return this.#files(request)
    }
  }

  #files(request: Extract<SandboxRequest, { path: string }>): object {
    const { files } = this.#running(request.id)
    const { path } = request
    const below = (parent: string) => `${parent.replace(/\/$/, '')}/`
    switch (request.op) {
      case 'stat':
        return this.#entry(files, path)
      case 'list': {
        const names = new Set(
          [...files.keys()]
            .filter((each) => each.startsWith(below(path)))
            .map((each) => each.slice(below(path).length).split('/')[0] ?? ''),
        )
        return {
          entries: [...names].filter((name) => name !== '').map((name) => this.#entry(files, below(path) + name)),
        }
      }
      case 'mkdir':
        files.set(below(path), Buffer.alloc(0))
        return {}
      case 'move':
        for (const [name, bytes] of [...files]) {
          if (name !== path && !name.startsWith(below(path))) continue
          files.delete(name)
          files.set(request.to + name.slice(path.length), bytes)
        }
        return {}
      case 'remove':
        for (const name of [...files.keys()]) if (name === path || name.startsWith(below(path))) files.delete(name)
        return {}
    }
  }

  #entry(files: ReadonlyMap<string, Buffer>, path: string): object {
    const bytes = files.get(path)
    const name = path.split('/').findLast((part) => part !== '') ?? '/'
    const common = { name, uid: 0, gid: 0, changedAt: 0 }
    if (bytes) return { ...common, type: 'file', size: bytes.length, mode: 0o644 }
    const isDirectory = [...files.keys()].some((each) => each.startsWith(`${path.replace(/\/$/, '')}/`))
    if (!isDirectory) throw new Fault('not_found', `there is nothing at "${path}"`)
    return { ...common, type: 'directory', size: 0, mode: 0o755 }
  }

  #put(spec: SandboxSpec, phase: SandboxPhase, files: ReadonlyMap<string, Buffer> = new Map()): void {
    this.sandboxes.set(spec.id, { spec, phase, build: spec.build, files: new Map(files) })
  }

  #get(id: SandboxId): FakeSandbox {
    const found = this.sandboxes.get(id)
    if (!found) throw new Fault('not_found', `sandbox ${id} is not on node "${this.name}"`)
    return found
  }

  #running(id: SandboxId): FakeSandbox {
    const found = this.#get(id)
    if (found.phase !== 'running') throw new Fault('conflict', `sandbox ${id} is ${found.phase}`)
    return found
  }

  async #beat(link: ControlLink, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#clock.sleep(5000, { signal }).catch(() => {})
      if (!signal.aborted) await link.send({ type: 'beat' }).catch(() => {})
    }
  }
}

async function startCommand(request: SandboxExecStream, env: Record<string, string>): Promise<FakeCommand> {
  const [program = '', ...args] = request.command
  const { terminal } = request
  const size = terminal ? { COLUMNS: String(terminal.columns), LINES: String(terminal.rows) } : {}
  const child = spawn(program, args, { env: { PATH: process.env.PATH ?? '', ...env, ...size, ...request.env } })
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve)
    child.once('error', () => reject(new Fault('invalid', `there is no program "${program}" in the sandbox`)))
  })
  child.stdin.on('error', () => {})
  if (!request.stdin) child.stdin.end()
  const command: FakeCommand = { child, words: request.command, kept: [], code: null, hears: new Set() }
  const say = (piece: Buffer) => {
    command.kept.push(piece)
    for (const hear of command.hears) hear(piece)
  }
  child.stdout.on('data', (chunk: Buffer) => say(encodeFrame(frame.stdout, chunk)))
  child.stderr.on('data', (chunk: Buffer) => say(encodeFrame(terminal ? frame.stdout : frame.stderr, chunk)))
  child.once('close', (exit, by) => {
    command.code = exit ?? (by === 'SIGINT' ? 130 : by === 'SIGTERM' ? 143 : 137)
    say(encodeFrame(frame.exit, JSON.stringify({ code: command.code })))
  })
  return command
}

/** Joins a stream to a command until it has ended or the stream is given up; offsets count pieces here. */
async function carry(
  command: FakeCommand,
  stream: Duplex,
  { from, terminal }: { from: number; terminal: boolean },
): Promise<void> {
  const { child } = command
  const over = Promise.withResolvers<void>()
  const decoder = new FrameDecoder()
  stream.on('data', (chunk: Buffer) => {
    for (const { kind, payload } of decoder.push(chunk)) {
      if (kind === frame.stdin) child.stdin.write(payload)
      else if (kind === frame.stdinEnd) child.stdin.end()
      else if (kind === frame.signal) child.kill(payload.toString() as NodeJS.Signals)
      else if (kind === frame.resize) stream.write(encodeFrame(frame.stdout, payload))
    }
  })
  const hear = (piece: Buffer) => {
    if (stream.destroyed) return
    stream.write(piece)
    if (piece[0] === frame.exit) over.resolve()
  }
  hear(encodeFrame(frame.started, JSON.stringify({ pid: child.pid, from, terminal })))
  for (const piece of command.kept.slice(from)) hear(piece)
  command.hears.add(hear)
  stream.once('close', () => over.resolve())
  await over.promise
  command.hears.delete(hear)
  if (!stream.destroyed) stream.end()
}
