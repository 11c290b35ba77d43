import { writeFileSync } from 'node:fs'
import { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Manifest } from '../blocks/manifest.ts'
import type { BlockServer } from '../blocks/server/protocol.ts'
import type { GuestChannel, GuestIdentity } from '../guest/channel.ts'
import { silentLog } from '../kit/log.ts'
import { seededRandom } from '../kit/random.ts'
import { systemClock } from '../kit/system-clock.ts'
import { Fault } from '../model/fault.ts'
import type { BuildId } from '../model/ids.ts'
import type { Egress } from '../model/sandbox.ts'
import type { Vm, Vmm, WarmVm } from '../vmm/vmm.ts'
import type { SandboxLink, SandboxNetwork } from './network.ts'
import type { Parts } from './parts.ts'

/**
 * A machine that outlives its agents: VMs, disks, memory images, places on the network, as far as the seams tell of them.
 * Every call of a seam is a step; a test may let the agent die at any of them (`dieAt`), or let a step fail.
 */
export class FakeMachine {
  readonly vms = new Map<string, FakeVm>()
  readonly disks = new Map<string, { build: string; epoch: number }>()
  /** Holder → builds; `null` for memory of a booted machine. */
  readonly memories = new Map<string, Set<string | null>>()
  readonly captures = new Set<string>()
  readonly links = new Map<string, { egress: Egress }>()
  readonly builds = new Map<string, Manifest>()
  readonly references = new Map<string, string>()
  free = 100 * 2 ** 30
  steps = 0
  /** The step at which the agent dies: it never hears of it, nor of any after it. Half of what it did may have happened. */
  dieAt = Number.POSITIVE_INFINITY
  /** The step is done before the agent dies, instead of not at all. */
  diesAfter = false
  fail: (step: string) => Error | undefined = () => undefined
  #pid = 100

  /** A step of the present agent: dead agents hang for ever. */
  async step<T>(name: string, agent: Agent, act: () => T): Promise<T> {
    if (agent.dead) return new Promise<never>(() => {})
    this.steps += 1
    if (this.steps === this.dieAt) {
      agent.dead = true
      if (this.diesAfter) act()
      agent.died.resolve()
      return new Promise<never>(() => {})
    }
    await Promise.resolve()
    const error = this.fail(name)
    if (error) throw error
    return act()
  }

  addBuild(id: string, change: Partial<Manifest> = {}): BuildId {
    const image = { size: 2 ** 20, chunkBytes: 4096, pages: [] }
    this.builds.set(id, {
      format: 1,
      id: id as BuildId,
      createdAt: 0,
      reason: 'template',
      parent: null,
      machine: { arch: 'amd64', cpus: 1, memoryMiB: 256 },
      disk: image,
      snapshot: {
        memory: image,
        devices: image,
        compat: 'fake',
        guestAgent: '1',
        channelToken: 'token-0',
        prefetch: [],
      },
      defaults: { env: { FROM_BUILD: '1' }, user: 'root', cwd: '/' },
      packs: [],
      addedBytes: 0,
      ...change,
    })
    return id as BuildId
  }

  /** All that is open or running, for a test that wants nothing left. */
  get held(): string[] {
    return [
      ...[...this.vms.values()].filter((vm) => vm.alive).map((vm) => `vm ${vm.directory}`),
      ...[...this.disks.keys()].map((name) => `disk ${name}`),
      ...[...this.memories.keys()].map((name) => `memory ${name}`),
      ...[...this.captures].map((name) => `capture ${name}`),
      ...[...this.links.keys()].map((name) => `link ${name}`),
    ]
  }

  newPid(): number {
    return this.#pid++
  }
}

interface Agent {
  dead: boolean
  died: PromiseWithResolvers<void>
}

/** What lives of a VM whether or not an agent has a grip on it. */
export class FakeVm {
  readonly pid: number
  readonly directory: string
  readonly ended = Promise.withResolvers<{ reason: string }>()
  alive = true
  stopped = true
  frozen = true
  token: string
  identities: GuestIdentity[] = []
  /** What ran in it before it was told who it is would be here. */
  ranUnidentified = false

  constructor(pid: number, directory: string, token: string) {
    this.pid = pid
    this.directory = directory
    this.token = token
  }

  standStill(stopped: boolean): void {
    this.stopped = stopped
  }

  freeze(): void {
    this.frozen = true
  }

  end(reason: string): void {
    this.alive = false
    this.ended.resolve({ reason })
  }
}

/** The parts of one agent on that machine. */
export function partsOn(machine: FakeMachine, directory: string): Parts & { agent: Agent } {
  const agent: Agent = { dead: false, died: Promise.withResolvers<void>() }
  const step = <T>(name: string, act: () => T) => machine.step(name, agent, act)
  return {
    agent,
    blocks: fakeBlocks(machine, step),
    vmm: fakeVmm(machine, step),
    network: fakeNetwork(machine, step),
    connect: ({ channel }) => step('connect', () => fakeChannel(vmAt(machine, channel), step)),
    boot: { kernel: '/kernel', initrd: '/initrd' },
    directory,
    starts: 2,
    ahead: { running: 8, waiting: 2 },
    freeMemory: () => machine.free,
    clock: {
      ...systemClock,
      sleep: (ms, { signal } = {}) => sleep(ms, undefined, { ref: false, ...(signal ? { signal } : {}) }),
    },
    random: seededRandom(`${directory} ${machine.steps}`),
    log: silentLog,
  }
}

type Step = <T>(name: string, act: () => T) => Promise<T>

function fakeBlocks(machine: FakeMachine, step: Step): BlockServer {
  const find = (build: string) => {
    const manifest = machine.builds.get(build)
    if (!manifest) throw new Fault('not_found', `there is no build ${build}`)
    return manifest
  }
  const hold = (holder: string, build: string | null) => {
    const held = machine.memories.get(holder) ?? new Set()
    machine.memories.set(holder, held.add(build))
  }
  const requests: Record<string, (request: never) => object> = {
    manifest: ({ build }: { build: string }) => ({ manifest: find(build) }),
    openDisk: ({ name, from }: { name: string; from: { build: string } }) => {
      find(from.build)
      if (!machine.disks.has(name)) machine.disks.set(name, { build: from.build, epoch: 0 })
      return { socket: `/disks/${name}`, size: 2 ** 20 }
    },
    cutDisk: ({ name }: { name: string }) => {
      const disk = machine.disks.get(name)
      if (!disk) throw new Fault('not_found', `there is no disk ${name}`)
      const { epoch } = disk
      disk.epoch += 1
      return { epoch }
    },
    closeDisk: ({ name }: { name: string }) => done(machine.disks.delete(name)),
    openMemory: ({ build, holder }: { build: string; holder: string }) => {
      const { snapshot } = find(build)
      hold(holder, build)
      return { path: `/memory/${build}`, size: snapshot?.memory.size ?? 0, sealed: true, lazy: false }
    },
    newMemory: ({ name, size }: { name: string; size: number }) => {
      hold(name, null)
      return { path: `/memory/${name}`, size }
    },
    releaseMemory: ({ build, holder }: { build: string; holder: string }) => {
      machine.memories.get(holder)?.delete(build)
      return {}
    },
    releaseHolder: ({ holder }: { holder: string }) => done(machine.memories.delete(holder)),
    captureMemory: ({ capture, pid }: { capture: string; pid: number }) => {
      const vm = [...machine.vms.values()].find((one) => one.pid === pid)
      if (!vm?.alive || !vm.stopped) throw new Fault('conflict', 'memory is captured of stopped VMs only')
      machine.captures.add(capture)
      return { bytes: 1 }
    },
    dropCapture: ({ capture }: { capture: string }) => done(machine.captures.delete(capture)),
    placeDifference: ({ build, base }: { build: string; base: string }) => {
      find(build)
      find(base)
      return {}
    },
    devices: ({ build, path }: { build: string; path: string }) => {
      writeFileSync(path, build)
      return { bytes: find(build).addedBytes }
    },
    store: (request: {
      build: string
      reason: 'pause' | 'snapshot'
      parent: BuildId
      disk: { name: string }
      reference: string
      snapshot: { capture: string; channelToken: string }
    }) => {
      if (!machine.captures.delete(request.snapshot.capture)) throw new Fault('not_found', 'there is no such capture')
      if (!machine.disks.has(request.disk.name)) throw new Fault('not_found', 'there is no such disk')
      machine.addBuild(request.build, { reason: request.reason, parent: request.parent })
      const manifest = find(request.build)
      if (manifest.snapshot) manifest.snapshot.channelToken = request.snapshot.channelToken
      machine.references.set(request.reference, request.build)
      return { build: request.build, addedBytes: 5, disk: manifest.disk }
    },
    deleteReference: ({ name }: { name: string }) => done(machine.references.delete(name)),
    list: () => ({
      disks: [...machine.disks].map(([name, { build, epoch }]) => ({ name, build, size: 1, epoch, overlayBytes: 0 })),
      memories: [...machine.memories].map(([holder, builds]) => ({
        build: [...builds][0],
        holders: [holder],
        bytes: 1,
      })),
      captures: [...machine.captures],
    }),
  }
  return {
    ask: async (name, request) => {
      const act = requests[name]
      if (!act) throw new Error(`the fake block server does not know ${name}`)
      return (await step(name, () => act(request as never))) as never
    },
    [Symbol.asyncDispose]: async () => {},
  }
}

function fakeVmm(machine: FakeMachine, step: Step): Vmm {
  const begin = (directory: string, token: string) => {
    const vm = new FakeVm(machine.newPid(), directory, token)
    machine.vms.set(directory, vm)
    return vm
  }
  return {
    name: 'qemu',
    facts: async () => ({
      healthy: true,
      version: '1',
      arch: 'amd64',
      accelerator: 'tcg',
      compat: 'fake',
      can: {
        saveDevices: true,
        savesMemory: false,
        networks: ['none'],
        networkLater: true,
        warm: true,
        liveSnapshot: true,
        layeredMemory: true,
      },
    }),
    boot: ({ directory }) => step('boot', () => gripOn(begin(directory, ''), step)),
    warm: ({ directory }) =>
      step('warm', (): WarmVm => {
        const vm = begin(directory, '')
        const exited = vm.ended.promise.then(() => {})
        const { pid } = vm
        return { pid, directory, memory: undefined, exited, [Symbol.asyncDispose]: async () => vm.end('given up') }
      }),
    restore: async ({ directory, memory, beforeLoad, warm }) => {
      await warm?.[Symbol.asyncDispose]()
      const build = memory.path.split('/').at(-1) ?? ''
      const token = machine.builds.get(build)?.snapshot?.channelToken ?? ''
      const vm = await step('restore', () => begin(directory, token))
      await beforeLoad?.(vm.pid)
      return gripOn(vm, step)
    },
    adopt: (directory) =>
      step('adopt', () => {
        const vm = machine.vms.get(directory)
        return vm?.alive ? gripOn(vm, step) : undefined
      }),
    remove: (directory) =>
      step('remove', () => {
        machine.vms.get(directory)?.end('removed')
        machine.vms.delete(directory)
      }),
  }
}

function gripOn(vm: FakeVm, step: Step): Vm {
  return {
    pid: vm.pid,
    directory: vm.directory,
    channel: `${vm.directory}/channel`,
    console: `${vm.directory}/console`,
    exited: vm.ended.promise,
    stop: () => step('stop', () => vm.standStill(true)),
    resume: () => step('resume', () => vm.standStill(false)),
    saveDevices: (file) => step('saveDevices', () => writeFileSync(file, 'devices')),
    kill: () => step('kill', () => vm.end('killed')),
    [Symbol.asyncDispose]: async () => {},
  }
}

function vmAt(machine: FakeMachine, socket: string): FakeVm {
  const vm = machine.vms.get(socket.replace(/\/channel$/, ''))
  if (!vm?.alive) throw new Fault('unavailable', 'nobody is at the other end of the channel')
  return vm
}

function fakeChannel(vm: FakeVm, step: Step): GuestChannel {
  const ran = () => {
    if (vm.identities.length === 0) vm.ranUnidentified = true
  }
  const execution = () => {
    ran()
    return noCommand()
  }
  const unused = () => Promise.reject(new Error('the fake guest does not do that'))
  return {
    agentVersion: '1',
    nextToken: `token-${vm.pid}`,
    closed: new Promise(() => {}),
    identify: (identity) => step('identify', () => void vm.identities.push(identity)),
    exec: () => step('exec', execution),
    start: () => step('start', execution),
    attach: unused,
    processes: async () => [],
    files: new Proxy({} as GuestChannel['files'], { get: () => unused }),
    forward: unused,
    quiesce: () => step('quiesce', () => {}),
    freeze: () => step('freeze', () => vm.freeze()),
    thaw: () =>
      step('thaw', () => {
        ran()
        vm.frozen = false
      }),
    shrink: async () => {},
    metrics: unused,
    [Symbol.asyncDispose]: async () => {},
  }
}

function fakeNetwork(machine: FakeMachine, step: Step): SandboxNetwork {
  const linkOf = (id: string): SandboxLink => ({
    backend: { kind: 'none' },
    identity: null,
    allow: (egress) => step('allow', () => void machine.links.set(id, { egress })),
    denials: (async function* () {})(),
    close: () => step('close', () => void machine.links.delete(id)),
  })
  return {
    name: 'none',
    reclaim: (keep) =>
      step('reclaim', () => {
        for (const id of machine.links.keys()) if (!keep.has(id)) machine.links.delete(id)
      }),
    open: (id) =>
      step('open', () => {
        machine.links.set(id, { egress: { mode: 'deny' } })
        return linkOf(id)
      }),
    adopt: (id) => step('adopt', () => (machine.links.has(id) ? linkOf(id) : undefined)),
  }
}

/** A command that does nothing, well. */
function noCommand() {
  return {
    pid: 1,
    from: 0,
    stdin: new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() }),
    stdout: Duplex.from([]),
    stderr: Duplex.from([]),
    resize() {},
    kill() {},
    exited: Promise.resolve({ code: 0 }),
  }
}

function done(_anything: unknown): object {
  return {}
}
