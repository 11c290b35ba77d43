import type { Manifest } from '../blocks/manifest.ts'
import { deadline } from '../kit/clock.ts'
import type { Gate } from '../kit/gate.ts'
import { encodeId } from '../model/ids.ts'
import type { MachineShape } from '../model/sandbox.ts'
import { type IdentifyOptions, identify, newMachineId } from './identity.ts'
import { clear, type Live, raise, type Waiting, wait } from './live.ts'
import type { Parts } from './parts.ts'

/** A build is popular for this long after it was last asked for. */
const popularMs = 10 * 60_000
/** What was asked for within this time is expected to be asked for again. */
const recentMs = 10_000
/** Nothing is made ahead until nobody has asked for this long, or for as long as the last start took, up to the second. */
const settleMs = 200
const mostSettleMs = 2000
/** Below this nothing is made ahead. */
const spareBytes = 2 * 2 ** 30

/**
 * VMs made ahead, sized by demand: of a build that was asked for lately so many run already, with an identity of their
 * own, as were asked for in the last seconds; and for everything else a VMM or two wait to be given any snapshot of their
 * shape. Whatever is here belongs to nobody and is ended by the next agent if this one dies.
 */
export class Pool {
  readonly #parts: Parts
  /** The same through which sandboxes start, so that making ahead never stands before somebody who waits. */
  readonly #gate: Gate
  readonly #builds = new Map<string, Popular>()
  readonly #waiting = new Map<string, { machine: MachineShape; ready: Waiting[]; askedAt: number }>()
  readonly #closing = new AbortController()
  #starting = 0
  #settleMs = settleMs
  #filling: Promise<void> | undefined
  #again = false

  constructor(parts: Parts, gate: Gate) {
    this.#parts = parts
    this.#gate = gate
  }

  /** VMs that run ahead. */
  get running(): number {
    let count = 0
    for (const { ready } of this.#builds.values()) count += ready.length
    return count
  }

  /** How many of this build run ahead. */
  ready(build: string): number {
    return this.#builds.get(build)?.ready.length ?? 0
  }

  /** One that runs already; undefined when none does. Asking is what makes a build popular. */
  take(manifest: Manifest): Live | undefined {
    const popular = this.#popular(manifest)
    popular.asked.push(this.#parts.clock.monotonic())
    const live = popular.ready.shift()
    this.#fill()
    return live
  }

  /** A VMM that waits for a snapshot of this shape; undefined when none does. */
  takeWaiting(machine: MachineShape): Waiting | undefined {
    const key = shapeKey(machine)
    const entry = this.#waiting.get(key) ?? { machine, ready: [], askedAt: 0 }
    entry.askedAt = this.#parts.clock.monotonic()
    this.#waiting.set(key, entry)
    const waiting = entry.ready.shift()
    this.#fill()
    return waiting
  }

  /** To be held by whoever starts a sandbox, until its guest knows who it is. */
  starting(): Disposable {
    const { clock } = this.#parts
    const begun = clock.monotonic()
    this.#starting += 1
    return {
      [Symbol.dispose]: () => {
        this.#starting -= 1
        // What was slow to start is slow at its first command as well.
        this.#settleMs = Math.max(settleMs, Math.min(mostSettleMs, clock.monotonic() - begun))
        this.#again = true
      },
    }
  }

  async close(): Promise<void> {
    this.#closing.abort(new Error('the agent is shutting down'))
    await this.#filling?.catch(() => {})
    for (const { ready } of this.#builds.values()) for (const live of ready) await this.#end(live)
    for (const { ready } of this.#waiting.values()) for (const { place } of ready) await clear(this.#parts, place)
    this.#builds.clear()
    this.#waiting.clear()
  }

  #popular(manifest: Manifest): Popular {
    const known = this.#builds.get(manifest.id)
    if (known) return known
    const popular: Popular = { manifest, asked: [], ready: [], failed: false }
    this.#builds.set(manifest.id, popular)
    return popular
  }

  /** One pass at a time; a ring meanwhile is one more pass. */
  #fill(): void {
    this.#again = true
    this.#filling ??= (async () => {
      try {
        while (this.#again && !this.#closing.signal.aborted) {
          // Whoever was just given one is to have the processors for their first command.
          while ((this.#again || this.#isBusy) && !this.#closing.signal.aborted) {
            this.#again = false
            await this.#parts.clock.sleep(this.#settleMs, { signal: this.#closing.signal })
          }
          await this.#pass()
        }
      } catch (error) {
        if (!this.#closing.signal.aborted) this.#parts.log.warn({ err: error }, 'no VM could be made ahead')
      } finally {
        this.#filling = undefined
      }
    })()
  }

  async #pass(): Promise<void> {
    const { signal } = this.#closing
    const now = this.#parts.clock.monotonic()
    for (const [key, entry] of this.#waiting) {
      if (now - entry.askedAt > popularMs) {
        this.#waiting.delete(key)
        for (const { place } of entry.ready) await clear(this.#parts, place)
      }
      while (entry.ready.length < this.#parts.ahead.waiting && this.#mayMakeAhead())
        entry.ready.push(await wait(this.#parts, { place: this.#newPlace(), machine: entry.machine, signal }))
    }
    for (const [build, popular] of this.#builds) {
      popular.asked = popular.asked.filter((at) => now - at < popularMs)
      if (popular.asked.length === 0) {
        this.#builds.delete(build)
        for (const live of popular.ready) await this.#end(live)
        continue
      }
      const recent = popular.asked.filter((at) => now - at < recentMs).length
      const wanted = Math.min(this.#parts.ahead.running, Math.max(1, recent))
      while (popular.ready.length < wanted && !popular.failed && this.#mayMakeAhead()) {
        const live = await this.#make(popular.manifest).catch((error: unknown) => {
          // The next one who asks will be told why.
          popular.failed = true
          throw error
        })
        if (this.#builds.get(build) === popular) popular.ready.push(live)
        else await this.#end(live)
      }
    }
  }

  /** Half of what may start at once does. */
  get #isBusy(): boolean {
    return this.#starting > 0 && this.#starting * 2 >= this.#parts.starts
  }

  /** Only while nobody waits to start, and there is memory to spare. */
  #mayMakeAhead(): boolean {
    return !this.#closing.signal.aborted && this.#gate.waiting === 0 && this.#parts.freeMemory() > spareBytes
  }

  async #make(manifest: Manifest): Promise<Live> {
    const { signal } = this.#closing
    using _place = await this.#gate.enter({ signal })
    const live = await raise(this.#parts, { place: this.#newPlace(), manifest, overParent: false, signal })
    try {
      const { user, cwd } = manifest.defaults
      const machineId = newMachineId(this.#parts)
      await warmUp(this.#parts, live, { hostname: 'sandbox', machineId, fresh: true, user, cwd, signal })
    } catch (error) {
      await this.#end(live)
      throw error
    }
    // One that dies waiting is not given to anybody.
    void live.vm.exited.then(() => {
      const popular = this.#builds.get(manifest.id)
      if (!popular?.ready.includes(live)) return
      popular.ready = popular.ready.filter((other) => other !== live)
      void this.#end(live).then(() => this.#fill())
    })
    return live
  }

  async #end(live: Live): Promise<void> {
    await live.channel[Symbol.asyncDispose]()
    await clear(this.#parts, live.place)
  }

  #newPlace(): string {
    return `p${encodeId(this.#parts.random.bytes(10))}`
  }
}

interface Popular {
  manifest: Manifest
  /** When it was asked for, monotonic ms. */
  asked: number[]
  ready: Live[]
  failed: boolean
}

function shapeKey({ arch, cpus, memoryMiB }: MachineShape): string {
  return `${arch}/${cpus}/${memoryMiB}`
}

/**
 * An emulated CPU translates what it runs for the first time, and every CPU finds it faster the second time. So the way of
 * becoming somebody, of running a command, and of what the template is for has been gone before anybody waits for it.
 */
async function warmUp(parts: Parts, live: Live, who: IdentifyOptions): Promise<void> {
  const { ready } = live.manifest.defaults
  for (let round = 0; round < warmRounds; round++) {
    await identify(parts, live, who)
    await runShell(parts, live, 'echo; /bin/true', who.signal)
    if (ready !== undefined && round < readyRounds) await runShell(parts, live, ready, who.signal)
  }
}

const warmRounds = 3
/** Translated code is linked to other such code when it is run again. */
const readyRounds = 2
const shellMs = 10_000

/** Whatever comes of it: whoever is given the machine learns what is wrong with it better than anybody here. */
async function runShell(parts: Parts, live: Live, line: string, signal: AbortSignal): Promise<void> {
  using limit = deadline(parts.clock, shellMs, signal)
  const { env } = live.manifest.defaults
  try {
    const execution = await live.channel.exec({ command: ['/bin/sh', '-c', line], env }, { signal: limit.signal })
    execution.stdin.end()
    execution.stdout.resume()
    execution.stderr?.resume()
    await execution.exited
  } catch {
    signal.throwIfAborted()
  }
}
