import { z } from 'zod'
import type { Guest } from '../../../guest/guest.ts'
import { runTool } from '../../../images/run-tool.ts'
import type { Clock } from '../../../kit/clock.ts'
import { Fault } from '../../../model/fault.ts'
import type { Exit, Handle, Stats } from '../../driver.ts'
import { exitOf } from '../processes.ts'
import { type EngineClient, EngineError } from './client.ts'
import { ContainerState } from './container.ts'
import type { OutputCopy } from './output.ts'

export interface EngineHandleOptions {
  client: EngineClient
  clock: Clock
  state: ContainerState
  output: OutputCopy
  guest: Guest
}

/** A grip on a container of the engine: follows its output, and waits for its end through restarts of the engine. */
export class EngineHandle implements Handle {
  readonly pid: number | undefined
  readonly startedAt: number
  readonly exited: Promise<Exit>
  readonly guest: Guest
  readonly #options: EngineHandleOptions
  readonly #done = new AbortController()
  readonly #work: Promise<Exit | undefined>

  constructor(options: EngineHandleOptions) {
    const { State } = options.state
    this.#options = options
    this.guest = options.guest
    this.pid = State.Pid > 0 ? State.Pid : undefined
    this.startedAt = Date.parse(State.StartedAt)
    this.#work = this.#end()
    this.exited = this.#work.then((exit) => exit ?? new Promise<Exit>(() => {}))
  }

  async signal(name: string): Promise<void> {
    await this.#kill(name)
  }

  async stop({ signal, graceMs }: { signal: string; graceMs: number }): Promise<void> {
    const { clock } = this.#options
    await this.#kill(signal).catch(() => {})
    const done = new AbortController()
    const patience = clock.sleep(graceMs, { signal: done.signal }).then(
      () => 'over',
      () => 'ended',
    )
    const first = await Promise.race([this.exited, patience])
    done.abort()
    while (first === 'over' && (await this.#inspect().catch(() => undefined))?.State.Running !== false) {
      const refused = await this.#kill('SIGKILL').then(
        () => false,
        (error) => error instanceof Fault && error.code === 'conflict',
      )
      if (refused) break
      await clock.sleep(50)
    }
    await this.exited
  }

  async stats(): Promise<Stats> {
    const { client, state } = this.#options
    const { State } = (await this.#inspect()) ?? state
    if (!State.Running) throw new Fault('conflict', 'the container has ended')
    const answer = await client.call('GET', `/containers/${state.Id}/stats?stream=false&one-shot=true`)
    const { memory_stats, cpu_stats, pids_stats } = EngineStats.parse(answer)
    const cached = memory_stats.stats?.inactive_file ?? memory_stats.stats?.total_inactive_file ?? 0
    return {
      memory: Math.max(0, (memory_stats.usage ?? 0) - cached),
      cpuMs: Math.round((cpu_stats.cpu_usage?.total_usage ?? 0) / 1e6),
      pids: pids_stats?.current ?? 0,
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#done.abort()
    await this.#work
  }

  /** Copies output for as long as the container lives; the engine may go away and come back. */
  async #follow(signal: AbortSignal): Promise<void> {
    const { clock, output } = this.#options
    while (!signal.aborted) {
      await output.copy({ follow: true, signal }).catch(() => {})
      await clock.sleep(200, { signal }).catch(() => {})
    }
  }

  /** Undefined when we were told to let go. */
  async #end(): Promise<Exit | undefined> {
    const { client, clock, state, output } = this.#options
    const { signal } = this.#done
    const over = new AbortController()
    const following = this.#follow(AbortSignal.any([signal, over.signal]))
    try {
      for (;;) {
        const now = await this.#inspect().catch((): 'unreachable' => 'unreachable')
        if (signal.aborted) return undefined
        if (now === undefined) return { code: 255, unknown: 'the container is gone and nobody saw it end' }
        if (now !== 'unreachable' && !now.State.Running) {
          // Some engines end a followed log before its last lines, others never: read what is left by ourselves.
          over.abort()
          await following
          await output.copy({ follow: false, signal }).catch(() => {})
          return signal.aborted ? undefined : exitOf(now.State.ExitCode, await this.#ranOutOfMemory(now))
        }
        if (now === 'unreachable') await clock.sleep(500, { signal }).catch(() => {})
        else await client.call('POST', `/containers/${state.Id}/wait?condition=not-running`, { signal }).catch(() => {})
      }
    } finally {
      over.abort()
      await following
      await output[Symbol.asyncDispose]()
    }
  }

  /** Not every engine finds out by itself; the kernel's log names the container's cgroup. */
  async #ranOutOfMemory({ Id, State }: ContainerState): Promise<boolean> {
    if (State.OOMKilled || State.ExitCode !== 137) return State.OOMKilled
    const log = await runTool('dmesg', [], { keepBytes: 4 << 20 }).catch(() => ({ stdout: '' }))
    return log.stdout.split('\n').some((line) => line.includes('oom-kill:') && line.includes(Id))
  }

  async #inspect(): Promise<ContainerState | undefined> {
    const { client, state } = this.#options
    return inspectContainer(client, state.Id)
  }

  async #kill(name: string): Promise<void> {
    const { client, state } = this.#options
    try {
      await client.call('POST', `/containers/${state.Id}/kill?signal=${encodeURIComponent(name)}`)
    } catch (error) {
      if (error instanceof EngineError && (error.status === 404 || error.status === 409))
        throw new Fault('conflict', `cannot send ${name}: the container has ended`, { cause: error })
      throw error
    }
  }
}

/** Undefined when there is none. */
export async function inspectContainer(client: EngineClient, name: string): Promise<ContainerState | undefined> {
  try {
    return ContainerState.parse(await client.call('GET', `/containers/${name}/json`))
  } catch (error) {
    if (error instanceof EngineError && error.status === 404) return undefined
    throw error
  }
}

const Count = z.number().nonnegative().optional()
const EngineStats = z.object({
  memory_stats: z.object({
    usage: Count,
    stats: z.object({ inactive_file: Count, total_inactive_file: Count }).nullish(),
  }),
  cpu_stats: z.object({ cpu_usage: z.object({ total_usage: Count }).nullish() }),
  pids_stats: z.object({ current: Count }).nullish(),
})
