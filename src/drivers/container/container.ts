import { join } from 'node:path'
import { ImageStore, type ImageUse } from '../../images/store.ts'
import type { Clock } from '../../kit/clock.ts'
import { Fault, sentence } from '../../model/fault.ts'
import type { DriverFacts } from '../../model/node.ts'
import type { Capabilities, Driver, Handle, PrepareOptions, TaskPlan } from '../driver.ts'
import { EngineForm } from './engine/engine.ts'
import type { Form } from './form.ts'
import { probeRuntime } from './plain/probe.ts'
import { PlainRuntime } from './plain/runtime.ts'

export interface ContainerOptions {
  /** For images and the runtime's state: absolute, this driver's alone, kept over restarts. */
  directory: string
  clock: Clock
  /** Which one to use. By default the first that works: a plain runtime, since it is the fastest, then an engine. */
  runtime?: 'runc' | 'crun' | 'docker' | 'podman' | undefined
  /** Of an engine, as in DOCKER_HOST; by default the sockets at their usual places. */
  dockerHost?: string | undefined
  /** Registry credentials of the node's owner (as `skopeo login` writes them), for tasks that bring none. */
  authFile?: string | undefined
}

/** OCI containers, by a plain runtime or by an engine that speaks Docker's API. */
export class ContainerDriver implements Driver {
  readonly name = 'container'
  readonly can: Capabilities = {
    exec: true,
    terminal: true,
    signals: true,
    stats: true,
    limits: true,
    images: true,
  }
  readonly #options: ContainerOptions
  readonly #architecture = process.arch === 'x64' ? 'amd64' : process.arch
  #choice: Promise<Choice> | undefined
  #chosenAt = 0

  constructor(options: ContainerOptions) {
    this.#options = options
  }

  async facts(): Promise<DriverFacts> {
    try {
      const choice = await this.#choose()
      return 'form' in choice ? await choice.form.check() : { healthy: false, ...choice, attributes: {} }
    } catch (error) {
      return { healthy: false, reason: sentence(error).slice(0, 1000), attributes: {} }
    }
  }

  async prepare(plan: TaskPlan, options: PrepareOptions): Promise<void> {
    await (await this.#form()).prepare(plan, options)
  }

  async start(plan: TaskPlan, options: { signal: AbortSignal }): Promise<Handle> {
    return (await this.#form()).start(plan, options)
  }

  async adopt(plan: TaskPlan): Promise<Handle | undefined> {
    return (await this.#form()).adopt(plan)
  }

  async remove(plan: Pick<TaskPlan, 'id' | 'directory'>): Promise<void> {
    await (await this.#form()).remove(plan)
  }

  /** Images on this node, least recently used first. */
  async images(): Promise<ImageUse[]> {
    const choice = await this.#choose()
    return 'form' in choice ? choice.form.images() : []
  }

  /** Removes unused images, least recently used first, until they take no more than this; says which went. */
  async evict(budgetBytes: number): Promise<string[]> {
    return (await this.#form()).evict(budgetBytes)
  }

  async #form(): Promise<Form> {
    const choice = await this.#choose()
    if ('form' in choice) return choice.form
    throw new Fault('unavailable', `this node cannot run containers: ${choice.reason}; ${choice.remedy}`)
  }

  /** Trying is not cheap: what works is kept, and what does not is tried again after a minute. */
  async #choose(): Promise<Choice> {
    const { clock } = this.#options
    const known = await this.#choice
    if (known !== undefined && ('form' in known || clock.monotonic() - this.#chosenAt < 60_000)) return known
    this.#chosenAt = clock.monotonic()
    this.#choice = this.#tryAll()
    return this.#choice
  }

  async #tryAll(): Promise<Choice> {
    const { directory, clock, runtime: wanted, authFile } = this.#options
    const architecture = this.#architecture
    const reasons: Refusal[] = []
    if (wanted === undefined || wanted === 'runc' || wanted === 'crun') {
      const probe = await probeRuntime(directory, wanted === undefined ? ['runc', 'crun'] : [wanted])
      if ('runtime' in probe) {
        const images = new ImageStore({ directory: join(directory, 'store'), clock, architecture, authFile })
        return { form: new PlainRuntime({ directory, images, clock, runtime: probe.runtime, architecture }) }
      }
      reasons.push(probe)
    }
    if (wanted === undefined || wanted === 'docker' || wanted === 'podman') {
      const found = await this.#findEngine()
      if ('form' in found) return found
      reasons.push(found)
    }
    return {
      reason: reasons.map(({ reason }) => reason).join('; '),
      remedy: [...new Set(reasons.map(({ remedy }) => remedy))].join(', or '),
    }
  }

  /** The first that answers; the one that was named, if one was. */
  async #findEngine(): Promise<Choice> {
    const { directory, clock, runtime: wanted, dockerHost } = this.#options
    const reasons: string[] = []
    for (const host of dockerHost === undefined ? engineSockets : [dockerHost]) {
      try {
        const form = await EngineForm.connect(host, { directory, clock, architecture: this.#architecture })
        if (wanted === undefined || wanted === form.engine || dockerHost !== undefined) return { form }
      } catch (error) {
        reasons.push(sentence(error))
      }
    }
    const reason = reasons.join('; ') || `no ${wanted} at ${engineSockets.join(' or ')}`
    return { reason, remedy: 'start Docker or Podman, and set DOCKER_HOST if it is elsewhere' }
  }
}

const engineSockets = ['unix:///run/docker.sock', 'unix:///run/podman/podman.sock']

type Choice = { form: Form } | Refusal

/** Why something does not work here, and what would help. */
interface Refusal {
  reason: string
  remedy: string
}
